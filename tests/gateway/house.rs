//! The house rules that a reader of the sources can check.
//!
//! *Claims*
//! 1. Modules import downwards only, as the table below says.
//! 2. Every file opens with `//!` and has at most 400 lines without its tests.
//! 3. Nothing is unwrapped outside tests.
//! 4. Each promise of SECURITY.md names what holds it, and each test that it names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Who may import whom; what is not here imports nothing of ours. A path through `crate::` counts, wherever
/// it stands outside tests.
const MAY_IMPORT: [(&str, &[&str]); 23] = [
    // Ground.
    ("alphabet", &[]),
    ("fields", &["numbered"]),
    ("numbered", &[]),
    ("wake", &[]),
    ("socket", &[]),
    ("shutdown", &["wake"]),
    ("config", &[]),
    ("clock", &[]),
    ("machine", &[]),
    ("systemd", &[]),
    ("unit", &["alphabet"]),
    // Nouns without I/O.
    ("route", &["config", "unit"]),
    ("caller", &["alphabet", "config"]),
    ("mask", &["alphabet", "config", "unit"]),
    // Leaves: never each other.
    ("cache", GROUND_AND_NOUNS),
    ("limit", GROUND_AND_NOUNS),
    ("upstream", GROUND_AND_NOUNS),
    // What is told of them.
    ("error", &["caller", "limit", "mask", "route", "upstream"]),
    ("telemetry", &["cache", "clock", "config", "error"]),
    ("admin", &["cache", "clock", "fields", "telemetry"]),
    // Connections: knows no gateway.
    ("listener", &["clock", "config", "shutdown", "socket"]),
    ("handover", &["clock", "listener", "shutdown", "telemetry"]),
    // The request path.
    (
        "gateway",
        &[
            "alphabet",
            "cache",
            "caller",
            "clock",
            "config",
            "error",
            "limit",
            "listener",
            "mask",
            "numbered",
            "route",
            "shutdown",
            "telemetry",
            "unit",
            "upstream",
        ],
    ),
];

const GROUND_AND_NOUNS: &[&str] = &[
    "alphabet", "caller", "clock", "config", "fields", "mask", "numbered", "route", "shutdown",
    "socket", "wake",
];

/// Where everything is put together: they import whatever they need.
const ROOTS: [&str; 6] = ["main", "lib", "server", "portless", "reload", "demo"];

/// Most lines of a file, its tests not counted.
const LONGEST: usize = 400;

/// A source file without its tests.
struct Source {
    path: PathBuf,
    /// The module of the top level that it belongs to.
    module: String,
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    gather(&root, &root, &mut found);
    assert!(found.len() > 30, "the sources were not found");
    found
}

fn gather(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            gather(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("tests.rs")
        {
            let inside = path.strip_prefix(root).unwrap();
            let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            found.push(Source {
                module: first.trim_end_matches(".rs").to_owned(),
                lines: without_tests(&text).lines().map(str::to_owned).collect(),
                path,
            });
        }
    }
}

/// The text up to its test module, which stands last.
fn without_tests(text: &str) -> &str {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text.get(..end).unwrap()
}

/// The part of a line that is code, roughly: no comments.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// The modules of the top level that a file's code names through `crate::`.
fn imports(source: &Source) -> BTreeSet<String> {
    let text = source.lines.iter().map(|line| code(line)).collect::<Vec<_>>().join("\n");
    let mut imports = BTreeSet::new();
    for rest in text.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            for part in list.split('}').next().unwrap().split(',') {
                imports.insert(first_name(part.trim()));
            }
        } else {
            imports.insert(first_name(rest));
        }
    }
    imports.remove("");
    imports
}

fn first_name(path: &str) -> String {
    path.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
}

#[test]
fn modules_import_downwards_only() {
    let mut wrong = BTreeSet::new();
    for source in sources() {
        if ROOTS.contains(&source.module.as_str()) {
            continue;
        }
        let row = MAY_IMPORT.iter().find(|(module, _)| *module == source.module);
        let (_, allowed) =
            row.unwrap_or_else(|| panic!("{} has no place in the table", source.module));
        let upwards = imports(&source)
            .into_iter()
            .filter(|import| *import != source.module && !allowed.contains(&import.as_str()));
        for import in upwards {
            wrong.insert(format!("{} imports {import}", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_table_has_no_circle() {
    // Each module may import only what stands in an earlier round.
    let mut done: BTreeSet<&str> = BTreeSet::new();
    while done.len() < MAY_IMPORT.len() {
        let ready = MAY_IMPORT.iter().filter(|(module, needs)| {
            !done.contains(module) && needs.iter().all(|need| done.contains(need))
        });
        let next: Vec<&str> = ready.map(|(module, _)| *module).collect();
        assert!(!next.is_empty(), "a circle among what is not in {done:?}");
        done.extend(next);
    }
}

#[test]
fn nobody_but_the_roots_imports_a_root() {
    for source in sources().iter().filter(|source| !ROOTS.contains(&source.module.as_str())) {
        for import in imports(source) {
            assert!(
                !ROOTS.contains(&import.as_str()),
                "{} imports {import}",
                source.path.display()
            );
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_it_is_for() {
    for source in sources() {
        assert!(source.lines[0].starts_with("//! "), "{}", source.path.display());
    }
}

#[test]
fn no_file_is_longer_than_400_lines_without_its_tests() {
    for source in sources() {
        let length = source.lines.len();
        assert!(length <= LONGEST, "{} has {length} lines", source.path.display());
    }
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    for source in sources() {
        for (number, line) in source.lines.iter().enumerate() {
            let unwrapped = code(line).contains(".unwrap()");
            assert!(!unwrapped, "{}:{}", source.path.display(), number + 1);
        }
    }
}

#[test]
fn no_source_holds_a_sample_key_in_full() {
    let key = format!("{}live_", "cal_");
    let shaped = |text: &str| text.bytes().take_while(u8::is_ascii_alphanumeric).count() >= 16;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches"] {
        everything(&root.join(folder), &mut files);
    }
    for path in files {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for prefix in [key.as_str(), "cal_test_", "cal_"] {
            for rest in text.split(prefix).skip(1) {
                assert!(!shaped(rest), "{} holds a key", path.display());
            }
        }
    }
}

/// The names of tests in a text: between backticks, in words joined by underscores.
fn named_tests(text: &str) -> impl Iterator<Item = &str> {
    let is_name = |name: &&str| {
        let plain = |letter: u8| matches!(letter, b'a'..=b'z' | b'0'..=b'9' | b'_');
        name.matches('_').count() >= 2 && name.bytes().all(plain)
    };
    text.split('`').skip(1).step_by(2).filter(is_name)
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let model = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        everything(&root.join(folder), &mut files);
    }
    let sources: Vec<String> =
        files.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    let is_there = |name: &str| {
        let head = format!("fn {name}()");
        sources.iter().any(|source| source.contains(&head))
    };
    let missing: Vec<_> = named_tests(&model).filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(named_tests(&model).count() > 50, "the names were not found");
}

#[test]
fn every_promise_of_the_threat_model_names_what_holds_it() {
    let model = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("SECURITY.md"));
    let model = model.unwrap();
    let rows =
        model.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| Promise"));
    for row in rows {
        let held_by = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        // What no test can hold: the compiler does, a check of CI does, or it is yet to come.
        let otherwise = ["the compiler", "`.ci/deny`", "an operator's CI", "to come"];
        let otherwise = otherwise.iter().any(|other| held_by.starts_with(other));
        assert!(otherwise || named_tests(held_by).next().is_some(), "nothing holds: {row}");
    }
}

fn everything(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            everything(&path, files);
        } else {
            files.push(path);
        }
    }
}
