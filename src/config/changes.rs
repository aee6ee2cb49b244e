//! What differs between two configurations, by the names of keys, and what of it takes a restart.
//!
//! *Invariants*
//! 1. Names are told, never values.
//! 2. A key that nobody thought of here takes a restart: it is told of, not passed over.

use std::collections::BTreeMap;

use super::Config;

/// The keys in which a configuration differs from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that a reload applies, a route or upstream that came or went as a whole.
    pub applied: Vec<String>,
    /// Those that only a restart applies.
    pub restart: Vec<String>,
}

impl Config {
    /// What `next` changes.
    pub fn changes(&self, next: &Self) -> Changes {
        let (before, after) = (keys(self), keys(next));
        let mut changed: Vec<String> = Vec::new();
        for key in before.keys().chain(after.keys().filter(|key| !before.contains_key(*key))) {
            if before.get(key) == after.get(key) {
                continue;
            }
            let told = come_or_gone(key, self, next).unwrap_or_else(|| key.clone());
            if !changed.contains(&told) {
                changed.push(told);
            }
        }
        if order(self, next) != order(next, self) {
            changed.push("the order of routes".to_owned());
        }
        let (restart, applied) = changed.into_iter().partition(|key| takes_restart(key));
        Changes { applied, restart }
    }
}

/// A key of a route that only one of the two has stands for all of that route's.
fn come_or_gone(key: &str, before: &Config, after: &Config) -> Option<String> {
    let of = |config: &Config| {
        let mut names = config.routes.iter().map(|route| &route.name);
        names.find(|name| is_of_route(key, name)).cloned()
    };
    match (of(before), of(after)) {
        (Some(name), None) => Some(format!("routes.{name} (gone)")),
        (None, Some(name)) => Some(format!("routes.{name} (new)")),
        _ => None,
    }
}

fn is_of_route(key: &str, name: &str) -> bool {
    let rest = key.strip_prefix("routes.").and_then(|key| key.strip_prefix(name));
    rest.is_some_and(|rest| rest.starts_with('.'))
}

/// The routes that both have, in the order of the first.
fn order<'a>(one: &'a Config, other: &Config) -> Vec<&'a str> {
    let names = one.routes.iter().map(|route| route.name.as_str());
    names.filter(|name| other.routes.iter().any(|route| route.name == *name)).collect()
}

/// Every key with its value, as they are shown; a route's keys under its name.
fn keys(config: &Config) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    let (mut section, mut route) = (String::new(), String::new());
    for line in config.show().lines() {
        if let Some(header) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = match header {
                "[routes]" => String::new(),
                "routes.cache" => format!("routes.{route}.cache"),
                _ => header.to_owned(),
            };
        } else if let Some((key, value)) = line.split_once(" = ") {
            if section.is_empty() {
                // The first key of a route is its name.
                value.trim_matches('"').clone_into(&mut route);
                section = format!("routes.{route}");
            }
            keys.insert(format!("{section}.{key}"), value.to_owned());
        }
    }
    keys
}

fn takes_restart(key: &str) -> bool {
    let any_time = |any: &&str| key == *any || any.ends_with('.') && key.starts_with(*any);
    AT_START.contains(&key) || !ANY_TIME.iter().any(any_time)
}

/// What a reload applies: keys, and sections with their dot.
const ANY_TIME: [&str; 23] = [
    "admin.hosts",
    "admin.token_file",
    "cache.",
    "limits.",
    "listen.body",
    "listen.connection_age",
    "listen.connection_requests",
    "listen.connections_per_peer",
    "listen.control_frames",
    "listen.head",
    "listen.idle",
    "listen.requests",
    "listen.streams",
    "listen.target_size",
    "listen.via",
    "listen.write",
    "log.",
    "routes.",
    "secrets.",
    "shutdown.",
    "the order of routes",
    "upstream.",
    "upstreams.",
];

/// What it does not, of those sections: the memory of cache and limiters is laid out once, and the log's
/// thread has its output.
const AT_START: [&str; 3] = ["cache.max_bytes", "limits.keys", "log.output"];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{Http2, Listen};
    use super::*;

    fn changes(change: impl FnOnce(&mut Config)) -> (Vec<String>, Vec<String>) {
        let before = Config::default();
        let mut after = before.clone();
        change(&mut after);
        let Changes { applied, restart } = before.changes(&after);
        (applied, restart)
    }

    #[test]
    fn equal_configurations_differ_in_nothing() {
        assert_eq!(changes(|_| ()), (vec![], vec![]));
    }

    #[test]
    fn a_key_is_told_by_its_name_with_those_that_take_a_restart_apart() {
        let told = changes(|config| {
            config.cache.max_bytes = 1;
            config.cache.policy.ttl = Duration::from_secs(9);
            config.listen.connections = 9;
            config.listen.via = Some("x".to_owned());
            config.log.level = super::super::Level::Trace;
        });
        assert!(told.0.starts_with(&["cache.ttl".to_owned(), "listen.via".to_owned()]), "{told:?}");
        assert!(told.0.contains(&"log.level".to_owned()), "{told:?}");
        assert_eq!(told.1, ["cache.max_bytes", "listen.connections"]);
    }

    #[test]
    fn what_new_connections_are_held_to_is_what_the_listener_takes_over() {
        let second = Duration::from_secs(1);
        let mut before = Config::default();
        before.listen = Listen {
            address: Vec::new(),
            reuse_port: !before.listen.reuse_port,
            handover: Some("other".into()),
            via: Some("other".to_owned()),
            tls_certificate_file: Some("other".into()),
            tls_key_file: Some("other".into()),
            tls_client_ca_file: Some("other".into()),
            http2: Http2::Off,
            trusted: vec!["192.0.2.0/24".parse().unwrap()],
            proxy_protocol: !before.listen.proxy_protocol,
            connections: 1,
            connections_per_peer: 1,
            requests: 1,
            connection_requests: 1,
            connection_age: second,
            streams: 1,
            control_frames: 1,
            target_size: 1,
            fields: 1,
            head_size: 1,
            head: second,
            idle: second,
            body: second,
            write: second,
        };
        let next = Config::default();
        let all = before.changes(&next);
        let listen = before.listen.under(&next.listen);
        let mut taken_over = before.changes(&Config { listen, ..before.clone() });
        assert_eq!(taken_over.restart, Vec::<String>::new());
        // These are the gateway's to take over.
        let each_request = ["body", "requests", "target_size", "via"];
        taken_over.applied.extend(each_request.map(|key| format!("listen.{key}")));
        taken_over.applied.sort();
        assert_eq!(all.applied, taken_over.applied);
        assert_eq!(all.applied.len() + all.restart.len(), 24, "every key differs");
    }

    #[test]
    fn a_route_is_told_by_its_name_and_as_a_whole_where_it_came_or_went() {
        let first = Config::default().routes[0].clone();
        let name = &first.name;
        let told = changes(|config| config.routes[0].path = "/elsewhere".to_owned());
        assert_eq!(told.0, [format!("routes.{name}.path")]);
        let told = changes(|config| {
            config.routes[0].name = "new".to_owned();
        });
        assert_eq!(told.0, [format!("routes.{name} (gone)"), "routes.new (new)".to_owned()]);
        let told = changes(|config| config.routes.swap(0, 1));
        assert_eq!(told.0, ["the order of routes"]);
    }
}
