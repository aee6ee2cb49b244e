# Varnish as a cache in front of the unit's list. what stands in @ signs is filled in by benches/peers/run.
# The built-in rules for what stands before a `return` are passed over: they would pass each request with a
# token, and each answer without a lifetime.
vcl 4.1;

backend api {
    .host = "127.0.0.1";
    .port = "@UPSTREAM@";
}

sub vcl_recv {
    return (hash);
}

# The key is the whole token and the target; the host, which the built-in rule would add, is no part of it.
sub vcl_hash {
    hash_data(req.http.Authorization);
    hash_data(req.url);
    return (lookup);
}

sub vcl_backend_response {
    if (beresp.status != 200) {
        set beresp.uncacheable = true;
        set beresp.ttl = 1s;
        return (deliver);
    }
    unset beresp.http.Set-Cookie;
    unset beresp.http.Vary;
    set beresp.ttl = 1h;
    set beresp.grace = 0s;
    set beresp.keep = 0s;
    return (deliver);
}
