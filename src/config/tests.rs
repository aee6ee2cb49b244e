//! What the configuration promises: defaults, overrides, and a message for every mistake.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use http::Method;
use proptest::prelude::*;

use super::*;

const SHIPPED: &str = include_str!("../../config.toml");

/// A configuration of a text, without its warnings.
fn config(text: &str) -> Config {
    Config::parse(text, []).unwrap_or_else(|errors| panic!("{errors}")).0
}

/// What is wrong with a text.
fn mistakes(text: &str) -> String {
    match Config::parse(text, []) {
        Ok(_) => panic!("nothing wrong with:\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

fn warnings(text: &str) -> Vec<String> {
    let (_, warnings) = Config::parse(text, []).unwrap_or_else(|errors| panic!("{errors}"));
    warnings.iter().map(ToString::to_string).collect()
}

fn with_env(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::parse(text, env).map(|(config, _)| config)
}

/// A table of one route, and what else stands in it.
fn route(keys: &str) -> String {
    let base = "[[routes]]\nname = \"one\"\npath = \"/unit/{unitId}\"\nupstream = \"chat\"\n";
    format!("{base}{keys}")
}

#[test]
fn the_shipped_file_is_the_default() {
    let (shipped, warnings) = Config::parse(SHIPPED, []).unwrap();
    assert_eq!(shipped, Config::default());
    assert_eq!(warnings, []);
}

#[test]
fn the_shipped_file_mentions_every_key() {
    let settings = env::Settings::default();
    let (table, _) = toml::de::DeTable::parse_recoverable(SHIPPED);
    let mut walk = walk::Walk::new("config.toml", SHIPPED, &settings);
    parse::config(section::Section::root(&mut walk, table.get_ref()));
    let later = |key: &&str| key.starts_with("routes[") && !key.starts_with("routes[1]");
    let unset: Vec<&str> = walk.unset().into_iter().filter(|key| !later(key)).collect();
    assert_eq!(unset, [""; 0], "keys that the file does not mention");
}

#[test]
fn each_key_of_the_shipped_file_has_a_comment_above_it() {
    // The routes after the first have nothing new to say.
    let second = SHIPPED.match_indices("[[routes]]\n").nth(1).unwrap().0;
    let lines: Vec<&str> = SHIPPED.split_at(second).0.lines().collect();
    for pair in lines.windows(2) {
        let told = pair[0].starts_with('#') || pair[0].starts_with("[upstreams.");
        let (key, _) = pair[1].split_once('=').unwrap_or_default();
        assert!(key.is_empty() || pair[1].starts_with('#') || told, "no comment above {key}");
    }
}

#[test]
fn the_default_shows_as_text_that_parses_back() {
    assert_eq!(config(&Config::default().show()), Config::default());
}

#[test]
fn a_configuration_that_departs_everywhere_shows_as_text_that_parses_back() {
    let departed = config(DEPARTED);
    assert_eq!(config(&departed.show()), departed);
    assert_eq!(departed.show(), config(&departed.show()).show());
    let default = Config::default().show();
    let default: BTreeSet<&str> = default.lines().filter(|line| line.contains(" = ")).collect();
    let departed = departed.show();
    let same: Vec<&str> = departed.lines().filter(|line| default.contains(line)).collect();
    assert_eq!(same, [""; 0], "keys that the text leaves at their default");
}

/// Every key at a value that is not its default.
const DEPARTED: &str = r#"
[listen]
address = "127.0.0.1:0"
reuse_port = true
handover = "/run/unitgate/handover"
via = "gate-1"
tls_certificate_file = "/run/tls.crt"
tls_key_file = "/run/tls.key"
tls_client_ca_file = "/run/ca.crt"
http2 = "all"
trusted = ["10.0.0.0/8", "2001:db8::/32"]
proxy_protocol = true
connections = 5
connections_per_peer = 4
requests = 3
connection_requests = 2
connection_age = "5m"
streams = 7
control_frames = 8
target_size = "4KiB"
fields = 50
head_size = "16KiB"
head = "100ms"
idle = "1500ms"
body = "2m"
write = "1h"
[admin]
address = "off"
token_file = "/run/token"
hosts = ["gate.internal"]
[caller]
key_file = "/run/\"keys\"/a\\b\tc"
[cache]
max_bytes = 1000000
ttl = "1s"
negative_ttl = "2s"
jitter = "7.25%"
max_ttl = "1d"
stale_while_revalidate = 0
stale_if_error = "0"
keep = "0ms"
store_no_store = true
request_directives = true
heuristic = true
targeted = ["CDN-Cache-Control"]
store_set_cookie = false
[secrets]
names = "secret"
objects = []
[limits]
caller = "off"
caller_upstream = { per_second = 1, burst = 1 }
peer = { per_second = 2, burst = 3 }
lane = "off"
keys = 7
request_body = 0
[upstream]
connect = "1s"
first_byte = "2s"
total = "3s"
max_body = "1GiB"
max_fields = 7
idle = "5s"
age = "6s"
breaker = "off"
hold_back = 0
concurrency = { least = 3, most = 4 }
queue = "1s"
retries = "100%"
max_buffered = "2GiB"
allow_plain = ["plain", "converflow"]
ca_file = "ca.pem"
[upstreams]
plain.url = "http://plain.example:81/"
converflow.url = "http://10.0.0.1"
chat.url = "http://[::1]:8000"
[log]
level = "trace"
format = "text"
output = "stderr"
access = "1/100"
target = "digest"
[shutdown]
delay = "100ms"
deadline = "8s"
[[routes]]
name = "everything"
path = "/{*path}"
methods = ["PURGE", "GET"]
upstream = "plain"
caller = "open"
forward = "all"
query = ["a", "b%20c"]
family = "f"
invalidates = { member = "id", family = "f" }
secrets = "verbatim"
refuse_masked_write = false
rate = { per_second = 4, burst = 5 }
[routes.cache]
ttl = "9s"
"#;

#[test]
fn a_key_that_is_left_out_keeps_its_default() {
    let expected = Config {
        shutdown: Shutdown { deadline: Duration::from_secs(5), ..Shutdown::default() },
        ..Config::default()
    };
    assert_eq!(config("[shutdown]\ndeadline = \"5s\""), expected);
}

#[test]
fn a_cached_route_departs_from_the_cache_section_key_by_key() {
    let text = route("[routes.cache]\nttl = \"10s\"\n[cache]\nttl = \"20s\"\nkeep = \"5s\"");
    let config = config(&text);
    let expected = CachePolicy {
        ttl: Duration::from_secs(10),
        keep: Duration::from_secs(5),
        ..CachePolicy::default()
    };
    assert_eq!(config.routes[0].cache, Some(expected));
    assert_eq!(config.cache.policy.ttl, Duration::from_secs(20));
}

#[test]
fn cache_true_takes_the_cache_section_as_it_is() {
    let config = config(&route("cache = true\n[cache]\nttl = \"20s\""));
    assert_eq!(config.routes[0].cache.as_ref(), Some(&config.cache.policy));
}

#[test]
fn the_shipped_routes_follow_the_cache_section_of_another_file() {
    let config = config("[cache]\nttl = \"20s\"");
    assert_eq!(config.routes[0].cache.as_ref(), Some(&config.cache.policy));
}

#[test]
fn routes_that_are_given_replace_the_shipped_table() {
    let config = config(&route(""));
    assert_eq!(config.routes, [Route::new("one", "/unit/{unitId}", "chat")]);
}

#[test]
fn an_upstream_that_is_given_replaces_the_one_of_its_name_or_is_added() {
    let text = "[upstreams.chat]\nurl = \"https://a.example\"\n[upstreams.more]\nurl = \"https://b.example\"";
    let config = config(text);
    assert_eq!(config.upstreams["chat"].url, "https://a.example/");
    assert_eq!(config.upstreams["more"].url, "https://b.example/");
    assert_eq!(config.upstreams["converflow"], Config::default().upstreams["converflow"]);
}

#[test]
fn the_shipped_table_sends_writes_of_one_integration_to_the_other_host() {
    let routes = Config::default().routes;
    let one = "/api/v1/calcom/integration/{integrationId}";
    let mut found: Vec<(&str, &Method)> = Vec::new();
    for route in routes.iter().filter(|route| route.path == one) {
        found.extend(route.methods.named().iter().map(|method| (route.upstream.as_str(), method)));
    }
    let expected =
        [("converflow", &Method::GET), ("converflow", &Method::HEAD), ("chat", &Method::PUT)];
    assert_eq!(found, expected);
}

#[test]
fn durations_and_sizes_are_read_in_every_unit() {
    let ttl = |text: &str| config(&format!("[cache]\nttl = {text}")).cache.policy.ttl.as_millis();
    let read =
        ["\"1500ms\"", "\"30s\"", "\"5m\"", "\"1h\"", "\"1d\"", "\"0\"", "0", "\"0s\""].map(ttl);
    assert_eq!(read, [1500, 30_000, 300_000, 3_600_000, 86_400_000, 0, 0, 0]);
    let bytes = |text: &str| config(&format!("[cache]\nmax_bytes = {text}")).cache.max_bytes;
    let read =
        ["0", "1_000", "\"5\"", "\"7B\"", "\"8MB\"", "\"3KiB\"", "\"64 MiB\"", "0x10"].map(bytes);
    assert_eq!(read, [0, 1000, 5, 7, 8_000_000, 3072, 64 << 20, 16]);
}

#[test]
fn timeouts_go_down_to_100_ms_and_lifetimes_to_a_second() {
    let text = "[upstream]\nconnect = \"100ms\"\nfirst_byte = \"100ms\"\ntotal = \"100ms\"\n[cache]\nttl = \"1s\"";
    let config = config(text);
    assert_eq!(config.upstream.total, Duration::from_millis(100));
    assert_eq!(config.cache.policy.ttl, Duration::from_secs(1));
}

/// Each text, and the whole message that it earns.
const MISTAKES: &[(&str, &str)] = &[
    (
        "",
        "config.toml: no key stands in it\n    start from the shipped config.toml; to run on its values, keep one key of it",
    ),
    (
        "# ttl = \"60s\"\n[cache]\n[log]",
        "config.toml: no key stands in it\n    start from the shipped config.toml; to run on its values, keep one key of it",
    ),
    ("[cache]\ntll = \"60s\"", "config.toml:2: cache.tll: no such key\n    did you mean \"ttl\"?"),
    (
        "[cache]\nmax-bytes = 5",
        "config.toml:2: cache.max-bytes: no such key\n    did you mean \"max_bytes\"?",
    ),
    (
        "[chache]\nttl = \"60s\"",
        "config.toml:1: chache: no such section\n    did you mean \"cache\"?",
    ),
    ("ttl = \"60s\"", "config.toml:1: ttl: no such section\n    it belongs in [cache]"),
    (
        "[log]\nper_minute = 5",
        "config.toml:2: log.per_minute: no such key\n    known here: level, format, output, access, target",
    ),
    (
        "[limits]\npeer = { per_second = 1, burst = 2, brust = 3 }",
        "config.toml:2: limits.peer.brust: no such key\n    did you mean \"burst\"?",
    ),
    (
        "cache = 5",
        "config.toml:1: cache: the number 5 can't stand here\n    write [cache], and its keys below it",
    ),
    (
        "[[cache]]\nttl = \"60s\"",
        "config.toml:1: cache: a value of type array can't stand here\n    write [cache], and its keys below it",
    ),
    (
        "[cache]\nttl = \"60s\"\nttl = \"5s\"",
        "config.toml:3: \"ttl\" is given twice\n    keep one of the two",
    ),
    (
        "[cache]\nttl = 60",
        "config.toml:2: cache.ttl: 60 has no unit\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\"",
    ),
    (
        "[cache]\nttl = true",
        "config.toml:2: cache.ttl: a value of type boolean can't stand here\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\"",
    ),
    (
        "[cache]\nttl = \"1 fortnight\"",
        "config.toml:2: cache.ttl: \"1 fortnight\" is no duration\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\"",
    ),
    (
        "[cache]\nttl = \"99999999999999999999s\"",
        "config.toml:2: cache.ttl: \"99999999999999999999s\" is no duration\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\"",
    ),
    (
        "[cache]\nttl = \"18446744073709551615d\"",
        "config.toml:2: cache.ttl: \"18446744073709551615d\" is no duration\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\"",
    ),
    (
        "[cache]\nttl = \"999ms\"",
        "config.toml:2: cache.ttl: \"999ms\" is out of range\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\", from \"1s\" to \"365d\"",
    ),
    (
        "[cache]\nmax_ttl = 0",
        "config.toml:2: cache.max_ttl: 0 is out of range\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\", from \"1s\" to \"365d\"",
    ),
    (
        "[upstream]\nconnect = \"99ms\"",
        "config.toml:2: upstream.connect: \"99ms\" is out of range\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\", from \"100ms\" to \"1d\"",
    ),
    (
        "[cache]\nmax_bytes = \"64 MBytes\"",
        "config.toml:2: cache.max_bytes: \"64 MBytes\" is no size\n    write a number of bytes, or one with KiB, MiB or GiB in quotes, such as \"64MiB\"",
    ),
    (
        "[cache]\nmax_bytes = -1",
        "config.toml:2: cache.max_bytes: the number -1 can't stand here\n    write a number of bytes, or one with KiB, MiB or GiB in quotes, such as \"64MiB\"",
    ),
    (
        "[listen]\nhead_size = \"1KiB\"",
        "config.toml:2: listen.head_size: 1024 bytes are out of range\n    write a number of bytes, or one with KiB, MiB or GiB in quotes, such as \"64MiB\", from \"8KiB\" to \"1MiB\"",
    ),
    (
        "[listen]\nconnections = 0",
        "config.toml:2: listen.connections: 0 is out of range\n    write a whole number from 1 to 1000000",
    ),
    (
        "[listen]\nconnections = \"many\"",
        "config.toml:2: listen.connections: a value of type string can't stand here\n    write a whole number from 1 to 1000000",
    ),
    (
        "[listen]\naddress = \"localhost:8080\"",
        "config.toml:2: listen.address: \"localhost:8080\" is no address with a port\n    write an IP address and a port in quotes, such as \"0.0.0.0:8080\" or \"[::]:8080\"; names are not resolved here",
    ),
    (
        "[listen]\naddress = [\":80\", \"1.2.3.4\"]",
        "config.toml:2: listen.address: \":80\" is no address with a port; \"1.2.3.4\" is no address with a port\n    write an IP address and a port in quotes, such as \"0.0.0.0:8080\" or \"[::]:8080\"; names are not resolved here",
    ),
    (
        "[listen]\naddress = []",
        "config.toml:2: listen.address: is an empty list\n    name at least one",
    ),
    (
        "[listen]\naddress = [\"1.2.3.4:5\", \"1.2.3.4:5\"]",
        "config.toml:2: listen.address: \"1.2.3.4:5\" stands twice\n    keep one of them",
    ),
    (
        "[listen]\naddress = [\"1.2.3.4:5\", \"0.0.0.0:5\"]",
        "config.toml:2: listen.address: 1.2.3.4:5 and another address here are the same socket\n    keep one of the two",
    ),
    (
        "[listen]\nvia = \"a b\"",
        "config.toml:2: listen.via: \"a b\" is no such name\n    write a name of up to 64 letters, digits, '-', '_' or '.', or \"\" for a random one",
    ),
    (
        "[admin]\naddress = \"on\"",
        "config.toml:2: admin.address: \"on\" is no address with a port\n    write an IP address and a port in quotes, such as \"0.0.0.0:8080\" or \"[::]:8080\"; names are not resolved here; or write \"off\"",
    ),
    (
        "[admin]\naddress = \"127.0.0.1:8080\"",
        "config.toml:2: admin.address: the public port listens on 0.0.0.0:8080 already\n    give the operators' port a number of its own, or write \"off\"",
    ),
    (
        "[cache]\njitter = 0.1",
        "config.toml:2: cache.jitter: a value of type float can't stand here\n    write a percentage from \"0%\" to \"50%\", such as \"10%\"",
    ),
    (
        "[cache]\njitter = \"50.01%\"",
        "config.toml:2: cache.jitter: \"50.01%\" is no such part\n    write a percentage from \"0%\" to \"50%\", such as \"10%\"",
    ),
    (
        "[cache]\nheuristic = \"yes\"",
        "config.toml:2: cache.heuristic: a value of type string can't stand here\n    write true or false, without quotes",
    ),
    (
        "[cache]\ntargeted = \"a b\"",
        "config.toml:2: cache.targeted: \"a b\" is no field name\n    write the name of a response field in quotes, such as \"CDN-Cache-Control\"",
    ),
    (
        "[secrets]\nnames = [\"_-\"]",
        "config.toml:2: secrets.names: \"_-\" is empty once '_' and '-' are left out\n    name the member as the upstream does, such as \"apiKey\"",
    ),
    (
        "[secrets]\nobjects = [\"api_key\"]",
        "config.toml:2: secrets.objects: \"api_key\" is among secrets.names too\n    keep it in names to mask it whole, in objects to keep its shape",
    ),
    (
        "[limits]\npeer = 10",
        "config.toml:2: limits.peer: the number 10 can't stand here\n    write { per_second = 1000, burst = 2000 }, or \"off\"",
    ),
    (
        "[limits]\npeer = { per_second = 10 }",
        "config.toml:2: limits.peer.burst: is missing\n    add { per_second = 1000, burst = 2000 }",
    ),
    (
        "[limits]\nlane = { in_flight = 0, wait = \"1s\" }",
        "config.toml:2: limits.lane.in_flight: 0 is out of range\n    write a whole number from 1 to 1000000",
    ),
    (
        "[log]\nlevel = \"loud\"",
        "config.toml:2: log.level: \"loud\" is not known here\n    write \"error\" or \"warn\" or \"info\" or \"debug\" or \"trace\"",
    ),
    (
        "[log]\naccess = \"1/0\"",
        "config.toml:2: log.access: \"1/0\" is not known here\n    write \"all\", \"errors\", \"off\", or a sample such as \"1/100\"",
    ),
    (
        "[upstream]\ntotal = \"5s\"",
        "config.toml:2: upstream.total: upstream.first_byte (8s) is longer than upstream.total (5s)\n    lower upstream.first_byte to at most 5s, or raise upstream.total",
    ),
    (
        "[shutdown]\ndelay = \"20s\"",
        "config.toml:2: shutdown.delay: shutdown.delay (20s) is longer than shutdown.deadline (9s)\n    lower shutdown.delay to at most 9s, or raise shutdown.deadline",
    ),
    (
        "[upstream]\nallow_plain = [\"nobody\"]",
        "config.toml:2: upstream.allow_plain: there is no upstream \"nobody\"\n    name one of [upstreams], or leave it out",
    ),
    (
        "[upstreams.chat]\nurl = \"http://chat.example\"",
        "config.toml:2: upstreams.chat.url: tokens of route \"integration-update\" would cross the network in the clear\n    write https://, or allow it by name: [upstream] allow_plain = [\"chat\"]",
    ),
    (
        "[upstreams.Chat]\nurl = \"https://chat.example\"",
        "config.toml:1: upstreams.Chat: can't name an upstream\n    write a name of 1 to 64 lower-case letters, digits, '-' or '_' in quotes",
    ),
    (
        "[upstreams.more]\nuri = \"https://more.example\"",
        "config.toml:1: upstreams.more.url: is missing\n    add url = \"https://HOST\"\n\nconfig.toml:2: upstreams.more.uri: no such key\n    did you mean \"url\"?",
    ),
    (
        "[upstreams]\nchat = \"https://chat.example\"",
        "config.toml:2: upstreams.chat: a value of type string can't stand here\n    write [upstreams.chat], and its keys below it",
    ),
];

#[test]
fn each_mistake_has_its_line_its_key_and_a_remedy() {
    for (text, expected) in MISTAKES {
        assert_eq!(mistakes(text), *expected, "for:\n{text}");
    }
}

/// What follows the URL in the message about each.
const URLS: &[(&str, &str)] = &[
    ("https://user:word@chat.example", "a URL with user info is refused"),
    ("https://chat.example/v1", "a URL with a path is refused: paths come from the routes"),
    ("https://chat.example?a=b", "a URL with a query is refused"),
    ("https://chat.example/#top", "a URL with a fragment is refused"),
    ("ftp://chat.example", "\"ftp://chat.example\" is no http or https URL"),
    ("chat.example", "\"chat.example\" is no http or https URL"),
    ("https://", "\"https://\" is no URL"),
    ("https://chat.example:99999", "\"https://chat.example:99999\" has no usable host and port"),
    ("https://chat.example:0", "\"https://chat.example:0\" has no usable host and port"),
    ("https://:80", "\"https://:80\" has no usable host and port"),
    ("http s://x", "\"http s://x\" is no URL"),
];

#[test]
fn a_url_is_scheme_host_and_port_and_nothing_else() {
    for (url, problem) in URLS {
        let told = mistakes(&format!("[upstreams.chat]\nurl = \"{url}\""));
        let remedy = "write scheme, host and port alone, such as \"https://api.example.com\", and nothing behind it";
        assert_eq!(told, format!("config.toml:2: upstreams.chat.url: {problem}\n    {remedy}"));
    }
}

#[test]
fn tokens_may_cross_in_the_clear_on_loopback_and_where_it_is_allowed_by_name() {
    for host in ["127.0.0.1", "127.9.9.9:81", "[::1]:81", "localhost", "LOCALHOST:81"] {
        config(&format!("[upstreams.chat]\nurl = \"http://{host}\""));
    }
    for host in ["128.0.0.1", "[::2]", "localhost.example", "127.0.0.1.example"] {
        let text = format!("[upstreams.chat]\nurl = \"http://{host}\"\n");
        assert!(mistakes(&text).contains("in the clear"), "{host}");
        config(&format!("{text}[upstream]\nallow_plain = [\"chat\"]"));
    }
    config(&route("caller = \"open\"\n[upstreams.chat]\nurl = \"http://chat.example\""));
}

/// Keys of a route, the key that is to blame, and its message.
const ROUTES: &[(&str, &str)] = &[
    (
        "forward = \"all\"",
        "config.toml:5: routes[1].forward: \"all\" needs caller = \"open\"\n    write forward = \"key\", or caller = \"open\" if nobody needs a token",
    ),
    (
        "secrets = \"verbatim\"",
        "config.toml:5: routes[1].secrets: \"verbatim\" needs caller = \"open\"\n    write secrets = \"mask\", or caller = \"open\" if nobody needs a token",
    ),
    (
        "methods = [\"POST\"]\ncache = true",
        "config.toml:6: routes[1].cache: nothing can be cached without GET\n    add \"GET\" to methods, or write cache = false",
    ),
    ("methods = []", "config.toml:5: routes[1].methods: is an empty list\n    name at least one"),
    (
        "methods = [\"get\"]",
        "config.toml:5: routes[1].methods: \"get\" is no such method\n    write a method in capitals and quotes, such as \"GET\"",
    ),
    (
        "methods = [\"any\"]",
        "config.toml:5: routes[1].methods: \"any\" is no such method\n    write a method in capitals and quotes, such as \"GET\"",
    ),
    (
        "methods = [\"GET\", \"CONNECT\"]",
        "config.toml:5: routes[1].methods: CONNECT is never served\n    leave it out: it is for tunnels and diagnostics",
    ),
    (
        "methods = [\"TRACE\"]",
        "config.toml:5: routes[1].methods: TRACE is never served\n    leave it out: it is for tunnels and diagnostics",
    ),
    (
        "cache = \"yes\"",
        "config.toml:5: routes[1].cache: a value of type string can't stand here\n    write true (as [cache] says), false, or a table [routes.cache]",
    ),
    (
        "[routes.cache]\nmax_bytes = 5",
        "config.toml:6: routes[1].cache.max_bytes: no such key\n    it belongs in [cache]",
    ),
    (
        "query = [\"a=b\"]",
        "config.toml:5: routes[1].query: \"a=b\" can't be the name of a query parameter\n    write it as it is sent, escapes included",
    ),
    (
        "methods = [\"PUT\"]\ninvalidates = { member = \"unitId\", family = \"calcom\" }",
        "config.toml:6: routes[1].invalidates: no cached route is of the family \"calcom\"\n    give a cached route family = \"calcom\", or write \"off\"",
    ),
    (
        "rate = \"off\"",
        "config.toml:5: routes[1].rate: a value of type string can't stand here\n    write { per_second = 1000, burst = 2000 }, or \"limits.caller\"",
    ),
    (
        "[[routes]]\nname = \"one\"\npath = \"/other\"\nupstream = \"chat\"",
        "config.toml:6: routes[2].name: \"one\" is the name of an earlier route too\n    give each route a name of its own",
    ),
    (
        "[[routes]]\nname = \"two\"\npath = \"/unit/{id}\"\nupstream = \"chat\"",
        "config.toml:7: routes[2].path: route \"one\" takes GET of the same path\n    leave out one of the two, or let them differ in methods",
    ),
    (
        "[[routes]]\nname = \"two\"\npath = \"/two\"\nupstream = \"nobody\"",
        "config.toml:8: routes[2].upstream: there is no upstream \"nobody\"\n    add [upstreams.nobody] with its url, or name one of: chat, converflow",
    ),
    (
        "[[routes]]\nname = \"Two\"",
        "config.toml:5: routes[2].path: is missing\n    add path = \"/unit/{unitId}\"\n\nconfig.toml:5: routes[2].upstream: is missing\n    add the name of one of [upstreams]\n\nconfig.toml:6: routes[2].name: \"Two\" is no such name\n    write a name of 1 to 64 lower-case letters, digits, '-' or '_' in quotes",
    ),
];

#[test]
fn each_mistake_in_a_route_has_its_line_its_key_and_a_remedy() {
    for (keys, expected) in ROUTES {
        assert_eq!(mistakes(&route(keys)), *expected, "for:\n{keys}");
    }
}

#[test]
fn an_empty_table_of_routes_is_refused() {
    let expected = "config.toml:1: routes: is no list of tables\n    write [[routes]] once for each, or nothing for the shipped ones";
    assert_eq!(mistakes("routes = []"), expected);
    assert_eq!(mistakes("routes = 5"), expected);
    assert_eq!(mistakes("routes = [5]"), expected);
}

const TEMPLATES: &[(&str, &str)] = &[
    ("unit", "\"unit\" does not start with '/'"),
    ("", "\"\" does not start with '/'"),
    ("/{*rest}/more", "\"{*rest}\" is not the last segment"),
    ("/{}", "the parameter \"{}\" has no usable name"),
    ("/{*}", "the parameter \"{*}\" has no usable name"),
    ("/{a-b}", "the parameter \"{a-b}\" has no usable name"),
    ("/{a}/{a}", "the parameter \"a\" stands twice"),
    ("/x{a}", "\"x{a}\" is only in part a parameter"),
    ("/{a}{b}", "the parameter \"{a}{b}\" has no usable name"),
    ("/{a", "\"{a\" is only in part a parameter"),
    ("/a//b", "\"/a//b\" has an empty segment"),
    ("/../a", "\"..\" can't stand in a path here"),
    ("/a?b", "\"a?b\" can't stand in a path here"),
    ("/a%2fb", "\"a%2fb\" can't stand in a path here"),
    ("/é", "\"é\" can't stand in a path here"),
];

#[test]
fn a_template_that_can_match_nothing_or_too_much_is_refused() {
    for (path, problem) in TEMPLATES {
        let text = format!("[[routes]]\nname = \"one\"\npath = \"{path}\"\nupstream = \"chat\"");
        let told = mistakes(&text);
        let expected = format!("config.toml:3: routes[1].path: {problem}\n");
        assert!(told.starts_with(&expected), "for {path}: {told}");
    }
    for path in ["/", "/{*path}", "/functions/", "/a/{b}/{*c}", "/a.b~c:@!$&'()*+,;=-_"] {
        config(&format!("[[routes]]\nname = \"one\"\npath = \"{path}\"\nupstream = \"chat\""));
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_file() {
    let text = r#"[listen]
adress = "0.0.0.0:80"
[cache]
ttl = 60
keep = 10m
[upstream]
first_byte = "20s"
[[routes]]
name = "one"
path = "/{unitId"
upstream = "nowhere"
"#;
    let errors = Config::parse(text, []).unwrap_err();
    let told: Vec<(Option<usize>, &str)> =
        errors.iter().map(|error| (error.line(), error.key())).collect();
    let expected = [
        (Some(2), "listen.adress"),
        (Some(4), "cache.ttl"),
        (Some(5), ""),
        (Some(7), "upstream.first_byte"),
        (Some(10), "routes[1].path"),
        (Some(11), "routes[1].upstream"),
    ];
    assert_eq!(told, expected, "{errors}");
}

#[test]
fn a_value_with_a_mistake_earns_no_second_complaint() {
    let told = mistakes("[upstream]\nfirst_byte = \"long\"\ntotal = \"1s\"");
    assert_eq!(told.matches("config.toml:").count(), 1, "{told}");
    let told = mistakes(&route("upstream_ = 1\n[upstreams.chat]\nurl = \"nonsense\""));
    assert_eq!(told.matches("config.toml:").count(), 2, "{told}");
}

#[test]
fn a_text_that_is_no_toml_is_told_with_its_line() {
    for text in ["a\n", "[cache\nttl = \"5s\"", "[cache]\nttl = 60s", "[cache]\nttl = \"60s"] {
        let errors = Config::parse(text, []).unwrap_err();
        assert!(errors.iter().all(|error| error.line().is_some()), "{text}: {errors}");
    }
}

#[test]
fn what_stands_behind_a_broken_header_is_not_judged_by_a_guess() {
    let text = "[listen]\nvia = \"a b\"\n[[routes]]\nname = \"one\"\nupstream = \"more\"\n[upstreams.more\nurl = 5";
    let errors = Config::parse(text, []).unwrap_err();
    let lines: Vec<Option<usize>> = errors.iter().map(ConfigError::line).collect();
    assert_eq!(lines, [Some(2), Some(6)], "{errors}");
}

#[test]
fn doubtful_but_allowed_is_a_warning() {
    let cases = [
        (
            route("[routes.cache]\nheuristic = true"),
            "config.toml:6: routes[1].cache.heuristic: has no effect where callers have tokens\n    leave it out, or write caller = \"open\"",
        ),
        (
            route("family = \"f\""),
            "config.toml:5: routes[1].family: has no effect on a route that is not cached\n    leave it out, or write cache = true",
        ),
        (
            route(
                "cache = true\nfamily = \"f\"\ninvalidates = { member = \"unitId\", family = \"f\" }",
            ),
            "config.toml:7: routes[1].invalidates: has no effect without a method that writes\n    add one to methods, or leave it out",
        ),
        (
            route(
                "cache = true\nfamily = \"f\"\nmethods = [\"GET\", \"PUT\"]\ninvalidates = { member = \"id\", family = \"f\" }",
            ),
            "config.toml:3: routes[1].path: route \"one\" has no {id}, by which writes of route \"one\" find its answers\n    name the parameter like the member, or give the route another family",
        ),
        (
            "[upstreams.more]\nurl = \"https://more.example\"".to_owned(),
            "config.toml:2: upstreams.more.url: no route uses this upstream\n    name it in a route, or leave it out",
        ),
        (
            "[secrets]\nnames = []".to_owned(),
            "config.toml:2: secrets.names: no member is masked by its name\n    name the secret members; only key-shaped text is masked without",
        ),
        (
            "[secrets]\nnames = [\"apiKey\", \"api_key\"]".to_owned(),
            "config.toml:2: secrets.names: some names are equal without case, '_' and '-'\n    keep one of each: they match the same members",
        ),
        (
            "[cache]\nstale_if_error = \"2d\"".to_owned(),
            "config.toml:2: cache.stale_if_error: a revoked token can be answered for 330s, 173130s while the upstream is down\n    shorten ttl, max_ttl and the stale windows",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(warnings(&text), [expected], "for:\n{text}");
    }
}

#[test]
fn the_environment_wins_over_the_file_and_is_read_by_the_same_rules() {
    let config = with_env(
        "[cache]\nttl = \"5s\"\n[limits]\npeer = { per_second = 1, burst = 1 }",
        &[
            ("UNITGATE__CACHE__TTL", "7s"),
            ("UNITGATE__CACHE__HEURISTIC", "true"),
            ("UNITGATE__CACHE__MAX_BYTES", "1000"),
            ("UNITGATE__LISTEN__ADDRESS", "1.2.3.4:5, [::]:6"),
            ("UNITGATE__LISTEN__CONNECTIONS", "12"),
            ("UNITGATE__ADMIN__ADDRESS", "off"),
            ("UNITGATE__LIMITS__PEER", "off"),
            ("UNITGATE__LIMITS__CALLER", "{ per_second = 3, burst = 4 }"),
            ("UNITGATE__SECRETS__OBJECTS", ""),
            ("UNITGATE__LOG__ACCESS", "1/10"),
            ("UNITGATE__UPSTREAMS__CONVERFLOW__URL", "https://a.example"),
            ("UNITGATE__UPSTREAMS__MY_OWN__URL", "https://b.example"),
        ],
    );
    let config = config.unwrap();
    assert_eq!(config.cache.policy.ttl, Duration::from_secs(7));
    assert!(config.cache.policy.heuristic);
    assert_eq!(config.cache.max_bytes, 1000);
    assert_eq!(config.listen.address, ["1.2.3.4:5", "[::]:6"].map(|it| it.parse().unwrap()));
    assert_eq!(config.listen.connections, 12);
    assert_eq!(config.admin.address, None);
    assert_eq!(config.limits.peer, None);
    assert_eq!(config.limits.caller, Some(Rate { per_second: 3, burst: 4 }));
    assert_eq!(config.secrets.objects, [""; 0]);
    assert_eq!(config.log.access, AccessLog::OneIn(10));
    assert_eq!(config.upstreams["converflow"].url, "https://a.example/");
    assert_eq!(config.upstreams["my_own"].url, "https://b.example/");
}

const ENVIRONMENT: &[(&str, &str, &str)] = &[
    (
        "UNITGATE__CACHE__TTL",
        "60",
        "60 has no unit\n    write a whole number and ms, s, m, h or d in quotes, such as \"30s\"",
    ),
    ("UNITGATE__CACHE__TLL", "60s", "no such key\n    did you mean \"ttl\"?"),
    ("UNITGATE__CHACHE__TTL", "60s", "chache: no such section\n    did you mean \"cache\"?"),
    (
        "UNITGATE__CACHE",
        "60s",
        "names no key\n    write UNITGATE__SECTION__KEY=value, as in UNITGATE__CACHE__TTL=60s",
    ),
    (
        "UNITGATE__",
        "",
        "names no key\n    write UNITGATE__SECTION__KEY=value, as in UNITGATE__CACHE__TTL=60s",
    ),
    (
        "UNITGATE____TTL",
        "",
        "names no section or no key\n    write UNITGATE__SECTION__KEY=value, as in UNITGATE__CACHE__TTL=60s",
    ),
    (
        "UNITGATE__ROUTES__0__NAME",
        "a",
        "routes can't be set from the environment\n    write [[routes]] in the file: a table has an order that variables lack",
    ),
    (
        "UNITGATE__LIMITS__CALLER__BURST",
        "5",
        "no such key\n    give caller as a whole, written as in the file",
    ),
    (
        "UNITGATE__LIMITS__CALLER",
        "{ per_second = 5, brust = 2 ",
        "\"{ per_second = 5, brust = 2 \" can't be read\n    write { per_second = 1000, burst = 2000 }, or \"off\"",
    ),
    (
        "UNITGATE__LIMITS__CALLER",
        "{ per_second = 0, burst = 2 }",
        "limits.caller.per_second: 0 is out of range\n    write a whole number from 1 to 1000000",
    ),
    (
        "UNITGATE__UPSTREAMS__URL",
        "https://a.example",
        "names no upstream\n    write UNITGATE__UPSTREAMS__NAME__URL=https://HOST",
    ),
    (
        "UNITGATE__UPSTREAMS__CHAT__URI",
        "https://a.example",
        "no such key\n    did you mean \"url\"?",
    ),
    (
        "UNITGATE__UPSTREAMS__CHAT__URL",
        "http://a.example",
        "tokens of route \"integration-update\" would cross the network in the clear\n    write https://, or allow it by name: [upstream] allow_plain = [\"chat\"]",
    ),
    (
        "UNITGATE_CACHE_TTL",
        "60s",
        "sets nothing, since it has one underscore\n    a setting has two underscores, UNITGATE__SECTION__KEY, here perhaps UNITGATE__CACHE__TTL",
    ),
    (
        "UNITGATE_CONFIG",
        "x",
        "sets nothing, since it has one underscore\n    a setting has two underscores, UNITGATE__SECTION__KEY",
    ),
];

#[test]
fn a_variable_that_sets_nothing_is_told_with_its_name_and_a_remedy() {
    for (name, value, expected) in ENVIRONMENT {
        let errors = with_env(SHIPPED, &[(name, value)]).unwrap_err();
        assert_eq!(errors.to_string(), format!("environment: {name}: {expected}"));
    }
}

#[test]
fn two_variables_for_one_key_are_a_mistake() {
    let env = [("UNITGATE__CACHE__TTL", "5s"), ("UNITGATE__cache__ttl", "6s")];
    let told = with_env(SHIPPED, &env).unwrap_err().to_string();
    assert_eq!(
        told,
        "environment: UNITGATE__cache__ttl: sets what UNITGATE__CACHE__TTL sets too\n    keep one of the two"
    );
}

#[test]
fn what_kubernetes_injects_is_ignored() {
    let injected = [
        ("UNITGATE_PORT", "tcp://10.0.0.1:80"),
        ("UNITGATE_SERVICE_HOST", "10.0.0.1"),
        ("UNITGATE_SERVICE_PORT", "80"),
        ("UNITGATE_SERVICE_PORT_HTTP", "80"),
        ("UNITGATE_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("UNITGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("UNITGATE_ADMIN_PORT", "tcp://10.0.0.2:90"),
        ("UNITGATE_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("UNITGATE_ADMIN_SERVICE_PORT", "90"),
        ("UNITGATE_ADMIN_SERVICE_PORT_HTTP", "90"),
        ("UNITGATE_ADMIN_PORT_90_TCP_PROTO", "tcp"),
        ("OTHER__CACHE__TTL", "1"),
        ("PATH", "/bin"),
    ];
    assert_eq!(with_env(SHIPPED, &injected).unwrap(), Config::default());
}

#[test]
fn no_message_quotes_a_password_or_an_unknown_value() {
    let secret = format!("cal_live_{}", "a1".repeat(12));
    let texts = [
        format!("[upstreams.chat]\nurl = \"https://{secret}@chat.example\""),
        format!("[caller]\nkey = \"{secret}\""),
        format!("token = \"{secret}\""),
    ];
    for text in texts {
        let errors = Config::parse(&text, []).unwrap_err();
        assert!(!format!("{errors}{errors:?}").contains(&secret), "{errors}");
    }
    let errors = with_env(SHIPPED, &[("UNITGATE__CALLER__KEY", &secret)]).unwrap_err();
    assert!(!format!("{errors}{errors:?}").contains(&secret), "{errors}");
}

#[test]
fn the_consequences_of_the_default_name_how_long_a_revoked_token_is_answered() {
    let told = Config::default().consequences().join("\n");
    for expected in [
        "an answer is at most 90 s old, 390 s while the upstream is down",
        "a revoked token is answered for at most 90 s, 390 s while the upstream is down",
        "a revoked token is answered for at most 330 s, 630 s while the upstream is down",
        "limits.peer is off",
        "ends within 9 s",
    ] {
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
}

#[test]
fn the_consequences_name_what_is_switched_off_or_opened() {
    let told = config(DEPARTED).consequences().join("\n");
    for expected in [
        "route everything: NOT masked",
        "route everything: answers marked no-store are stored",
        "route everything: a 404 is repeated for up to 2 s",
        "route everything: a write may overwrite a real key",
        "limits.caller is off",
        "limits.lane is off",
        "upstream.breaker is off",
        "the operators' port is off",
        "goes on accepting for 100 ms",
    ] {
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
    let told = config("[cache]\nmax_bytes = 0\n[admin]\naddress = \"0.0.0.0:9090\"\n[log]\naccess = \"off\"\n[upstream]\nallow_plain = \"chat\"\n[upstreams.chat]\nurl = \"http://chat.example\"").consequences().join("\n");
    for expected in [
        "caching is off",
        "can be reached from other machines",
        "tokens cross the network to upstream chat in the clear",
        "no exchange is logged",
    ] {
        assert!(told.contains(expected), "{expected}\nis not in\n{told}");
    }
    assert!(!told.contains("revoked"), "{told}");
}

/// A directory with `name` holding `content`, and the path of the file.
fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    (directory, path)
}

fn load(text: &str) -> Result<(Config, Vec<Warning>), ConfigErrors> {
    let (_directory, path) = file(text.as_bytes(), 0o600);
    Config::load(&path, [])
}

#[test]
fn a_file_that_is_missing_binary_or_endless_is_told_by_its_name() {
    let told = Config::load(Path::new("/nowhere/x.toml"), []).unwrap_err().to_string();
    assert!(told.starts_with("/nowhere/x.toml: can't be read: No such file"), "{told}");
    let (_directory, path) = file(b"[cache]\nttl = \"\xff\"", 0o600);
    let told = Config::load(&path, []).unwrap_err().to_string();
    assert!(told.contains("line 2 is not UTF-8"), "{told}");
    let told = Config::load(Path::new("/dev/zero"), []).unwrap_err().to_string();
    assert!(told.contains("larger than 1 MiB"), "{told}");
}

#[test]
fn a_loaded_file_is_named_in_its_mistakes() {
    let (_directory, path) = file(b"[cache]\nttl = 5", 0o600);
    let told = Config::load(&path, []).unwrap_err().to_string();
    assert!(told.starts_with(&format!("{}:2: cache.ttl: ", path.display())), "{told}");
}

#[test]
fn the_key_of_the_callers_is_read_trimmed_and_never_kept_or_quoted() {
    let key = "k".repeat(32);
    let (_directory, path) = file(format!("  {key}\n").as_bytes(), 0o600);
    let text = format!("[caller]\nkey_file = \"{}\"", path.display());
    let (config, warnings) = load(&text).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.caller.key().unwrap(), Some(key.clone().into_bytes()));
    assert!(!format!("{config:?}{}", config.show()).contains(&key));
}

#[test]
fn a_short_missing_or_readable_key_file_is_told() {
    let (_directory, path) = file(format!("{}\n", "k".repeat(31)).as_bytes(), 0o600);
    let told =
        load(&format!("[caller]\nkey_file = \"{}\"", path.display())).unwrap_err().to_string();
    assert!(
        told.contains(":2: caller.key_file: the file can't be used: 31 bytes are fewer than 32"),
        "{told}"
    );
    let pasted = "p".repeat(40);
    let told = load(&format!("[caller]\nkey_file = \"{pasted}\"")).unwrap_err().to_string();
    assert!(told.contains("No such file") && !told.contains(&pasted), "{told}");
    let (_directory, path) = file("k".repeat(32).as_bytes(), 0o604);
    let (_, warnings) = load(&format!("[caller]\nkey_file = \"{}\"", path.display())).unwrap();
    assert!(warnings[0].to_string().contains("every user of the machine can read"), "{warnings:?}");
}

#[test]
fn the_token_of_the_operators_is_read_trimmed_and_never_kept_or_quoted() {
    let token = "t".repeat(16);
    let (_directory, path) = file(format!("\t {token} \r\n").as_bytes(), 0o400);
    let (config, warnings) =
        load(&format!("[admin]\ntoken_file = \"{}\"", path.display())).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.admin.token().unwrap(), Some(token.clone().into_bytes()));
    assert!(!format!("{config:?}{}", config.show()).contains(&token));
    let (without, _) = load("[admin]\ntoken_file = \"\"").unwrap();
    assert_eq!(without.admin.token().unwrap(), None);
}

#[test]
fn a_short_missing_or_readable_token_file_is_told() {
    let told = |path: &Path| load(&format!("[admin]\ntoken_file = \"{}\"", path.display()));
    for (content, bytes) in [("", 0), (" \n ", 0), ("fifteen-letters\n", 15)] {
        let (_directory, path) = file(content.as_bytes(), 0o600);
        let told = told(&path).unwrap_err().to_string();
        let short = format!("the file can't be used: {bytes} bytes are fewer than 16\n");
        assert!(told.contains(&format!(":2: admin.token_file: {short}")), "{told}");
        assert!(
            told.contains("    make one with: head -c 32 /dev/urandom | base64 > FILE"),
            "{told}"
        );
    }
    let pasted = "a-token-that-was-pasted-here";
    let missing = told(Path::new(pasted)).unwrap_err().to_string();
    assert!(missing.contains("No such file") && !missing.contains(pasted), "{missing}");
    let (_directory, path) = file(b"a token of operators", 0o604);
    let (_, warnings) = told(&path).unwrap();
    let warning = warnings[0].to_string();
    assert!(warning.contains("admin.token_file: every user of the machine can read"), "{warning}");
}

#[test]
fn the_names_of_the_operators_port_are_hosts_without_a_port() {
    let hosts = |hosts: &str| format!("[admin]\nhosts = {hosts}");
    let known = config(&hosts("[\"Gate.Internal\", \"gate_2\", \"10.0.0.1\"]")).admin.hosts;
    assert_eq!(known, ["gate.internal", "gate_2", "10.0.0.1"]);
    assert_eq!(config(&hosts("\"gate\"")).admin.hosts, ["gate"]);
    let long = "a".repeat(254);
    for host in ["", "gate:80", "http://gate", "[::1]", "gate/x", "a b", "*", "é", &long] {
        let expected = format!(
            "config.toml:2: admin.hosts: {host:?} is no host name\n    write a host name in quotes and without a port, such as \"gate.internal\""
        );
        assert_eq!(mistakes(&hosts(&format!("[\"{host}\"]"))), expected);
    }
}

#[test]
fn any_method_is_each_but_connect_and_trace_and_shows_as_it_was_read() {
    let any = config(&route("methods = \"any\""));
    assert_eq!(any.routes[0].methods, Methods::Any);
    assert_eq!(config(&any.show()), any);
    assert!(any.show().contains("methods = \"any\""), "{}", any.show());
    for method in ["GET", "DELETE", "OPTIONS", "BREW", "get"] {
        assert!(any.routes[0].methods.contains(&method.parse().unwrap()), "{method}");
    }
    for method in [Method::CONNECT, Method::TRACE] {
        assert!(!any.routes[0].methods.contains(&method), "{method}");
    }
}

#[test]
fn any_method_takes_the_whole_path() {
    let two = |first: &str, second: &str| {
        let first = route(&format!("methods = {first}\n"));
        format!(
            "{first}[[routes]]\nname = \"two\"\npath = \"/unit/{{id}}\"\nupstream = \"chat\"\nmethods = {second}"
        )
    };
    for (first, second, method) in [
        ("\"any\"", "[\"POST\"]", "POST"),
        ("[\"BREW\"]", "\"any\"", "BREW"),
        ("\"any\"", "\"any\"", "GET"),
    ] {
        let told = mistakes(&two(first, second));
        let expected = format!("routes[2].path: route \"one\" takes {method} of the same path\n");
        assert!(told.contains(&expected), "{told}");
    }
    config(&two("[\"GET\"]", "[\"POST\"]"));
}

#[test]
fn a_file_of_certificates_without_one_is_refused() {
    let (_directory, path) = file(b"nothing", 0o600);
    let told =
        load(&format!("[upstream]\nca_file = \"{}\"", path.display())).unwrap_err().to_string();
    assert!(told.contains(":2: upstream.ca_file: the file holds no certificate"), "{told}");
}

#[test]
fn tls_needs_both_of_its_files_and_each_holds_what_it_is_for() {
    let (_one, nothing) = file(b"nothing", 0o600);
    let (_two, certificate) = file(b"-----BEGIN CERTIFICATE-----", 0o600);
    let (_three, key) = file(b"-----BEGIN PRIVATE KEY-----", 0o604);
    let [nothing, certificate, key] = [nothing, certificate, key].map(|path| format!("{path:?}"));
    let told = |keys: &[(&str, &str)]| {
        let line = |(name, path): &(&str, &str)| format!("tls_{name}_file = {path}\n");
        load(&format!("[listen]\n{}", keys.iter().map(line).collect::<String>()))
    };
    let (_, warnings) = told(&[("certificate", &certificate), ("key", &key)]).unwrap();
    let warned = warnings[0].to_string();
    assert!(warned.contains("listen.tls_key_file: every user of the machine"), "{warned}");
    let refused = [
        (
            &[("certificate", &*certificate)][..],
            "tls_certificate_file: TLS needs a certificate and",
        ),
        (&[("key", &key)], "tls_key_file: TLS needs a certificate and its key"),
        (&[("client_ca", &certificate)], "tls_client_ca_file: clients can show certificates over"),
        (
            &[("certificate", &nothing), ("key", &key)],
            "tls_certificate_file: the file holds no cert",
        ),
        (
            &[("certificate", &certificate), ("key", &nothing)],
            "tls_key_file: the file holds no priv",
        ),
    ];
    for (keys, expected) in refused {
        let told = told(keys).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_proxy_header_is_asked_for_from_named_networks_only() {
    let told = mistakes("[listen]\nproxy_protocol = true");
    assert!(
        told.contains("listen.proxy_protocol: nobody's PROXY header would be believed"),
        "{told}"
    );
    let told = mistakes("[listen]\ntrusted = [\"10.0.0.0/33\"]");
    assert!(told.contains("listen.trusted: \"10.0.0.0/33\" is no network"), "{told}");
    let read = config("[listen]\ntrusted = [\"10.1.2.3/8\", \"2001:db8::1\"]").listen.trusted;
    let addresses = ["10.9.9.9", "::ffff:10.0.0.1", "2001:db8::1", "11.0.0.1", "2001:db8::2"];
    let covered = addresses.map(|address| covers(&read, address.parse().unwrap()));
    assert_eq!(covered, [true, true, true, false, false]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        prop_assert!(Config::parse(&text, []).is_ok() || !mistakes(&text).is_empty());
    }

    #[test]
    fn no_mixture_of_what_is_valid_makes_it_panic(
        lines in proptest::collection::vec(line(), 0..40),
        env in proptest::collection::vec(("UNITGATE_{1,3}[A-Z_]{0,12}", any::<String>()), 0..3),
    ) {
        let text = lines.join("\n");
        match Config::parse(&text, env) {
            Ok((config, _)) => prop_assert_eq!(self::config(&config.show()), config),
            Err(errors) => prop_assert!(errors.iter().count() > 0),
        }
    }

    #[test]
    fn a_part_shows_as_it_was_read(hundredths in 0_u32..=5000) {
        let text = format!("{}.{:02}%", hundredths / 100, hundredths % 100);
        let read = config(&format!("[cache]\njitter = \"{text}\"")).cache.policy.jitter;
        let shown = value::show_percent(read);
        let again = config(&format!("[cache]\njitter = {shown}")).cache.policy.jitter;
        prop_assert_eq!(read.to_bits(), again.to_bits());
    }

    #[test]
    fn any_text_of_a_path_shows_as_it_was_read(path in "\\PC*|[\\x00-\\x7f\u{80}-\u{ff}]*") {
        let config = Config {
            caller: Caller { key_file: (!path.is_empty()).then(|| PathBuf::from(&path)) },
            ..Config::default()
        };
        prop_assert_eq!(self::config(&config.show()), config);
    }
}

/// A line of a valid configuration, or of one that is not.
fn line() -> impl Strategy<Value = String> {
    let valid: Vec<String> = DEPARTED.lines().chain(SHIPPED.lines()).map(str::to_owned).collect();
    prop_oneof![8 => proptest::sample::select(valid), 1 => "[\\[\\]{}=\"'#a-z0-9_. ]{0,20}"]
}
