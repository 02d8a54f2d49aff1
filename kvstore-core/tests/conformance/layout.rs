//! Which modules may depend on which: the dependencies between modules, taken from the paths in
//! each file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const BACKENDS: [&str; 3] = ["json_file", "memory", "redis"];

/// Modules built on the contracts, which nothing below may know.
const ABOVE: [&str; 6] = [
    "open",
    "embedded",
    "service",
    "worker",
    "process",
    "conformance",
];

/// A source file of the library without its tests, and the paths inside the crate that it uses.
struct Source {
    /// Its path below `src`, such as `model/key.rs`.
    file: String,
    /// Such as `model::key::Key`.
    paths: BTreeSet<String>,
}

impl Source {
    /// Returns the top-level module that it belongs to, such as `model`.
    fn top(&self) -> &str {
        let end = self.file.find('/').unwrap_or(self.file.len());
        self.file[..end].trim_end_matches(".rs")
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&src, &mut found);
    let is_test = |path: &PathBuf| {
        let below = path.strip_prefix(&src).unwrap();
        below.components().any(|part| part.as_os_str() == "tests")
            || below.ends_with("tests.rs")
            || below.ends_with("simulated.rs")
    };
    found.retain(|path| !is_test(path));
    assert!(found.len() > 80, "{}", found.len());
    found.iter().map(|path| source(&src, path)).collect()
}

fn source(src: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    let lines = code.lines().map(str::trim_start);
    let code: Vec<&str> = lines.filter(|line| !line.starts_with("//")).collect();
    let code = code.join("\n");
    let paths = code.match_indices("crate::").filter_map(|(at, start)| {
        // Not `$crate::`, nor a name with that suffix.
        let before = code[..at].chars().next_back();
        if before.is_some_and(|before| before.is_alphanumeric() || "_$:".contains(before)) {
            return None;
        }
        let rest = &code[at + start.len()..];
        let end = rest.find(|next: char| !next.is_alphanumeric() && !"_:".contains(next));
        let path = rest[..end.unwrap_or(rest.len())].trim_end_matches(':');
        (!path.is_empty()).then(|| path.to_owned())
    });
    Source {
        file: path.strip_prefix(src).unwrap().to_str().unwrap().to_owned(),
        paths: paths.collect(),
    }
}

/// Returns the first name in a path.
fn head(path: &str) -> &str {
    path.split("::").next().unwrap()
}

/// Fails with every dependency that `is_wrong`.
fn no_arrow(is_wrong: impl Fn(&Source, &str) -> bool) {
    let sources = sources();
    let wrong: Vec<String> = sources
        .iter()
        .flat_map(|source| source.paths.iter().map(move |path| (source, path)))
        .filter(|(source, path)| is_wrong(source, path))
        .map(|(source, path)| format!("{} names crate::{path}", source.file))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_name_comes_from_the_module_that_defines_it() {
    // Macros and statics of the crate are at its root.
    no_arrow(|source, path| {
        let is_type = head(path).starts_with(char::is_uppercase);
        is_type && source.file != "lib.rs"
    });
}

#[test]
fn the_model_depends_only_on_what_is_below_it() {
    no_arrow(|source, path| {
        source.top() == "model" && !["model", "error", "limits", "clock"].contains(&head(path))
    });
}

#[test]
fn the_model_has_no_cycle() {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources().iter().filter(|source| source.top() == "model") {
        let own = source.file["model/".len()..].trim_end_matches(".rs");
        let needed = source
            .paths
            .iter()
            .filter_map(|path| path.strip_prefix("model::"));
        let needed = needed.map(|path| head(path).to_owned());
        let needed = needed.filter(|needed| needed != own).collect();
        needs.insert(own.to_owned(), needed);
    }
    assert!(needs.len() > 8, "{needs:?}");
    // Removes modules that depend on none of the rest, until none is left.
    while !needs.is_empty() {
        let left: BTreeSet<String> = needs.keys().cloned().collect();
        let before = needs.len();
        needs.retain(|_, needed| needed.iter().any(|needed| left.contains(needed)));
        assert!(
            needs.len() < before,
            "these depend on each other: {needs:#?}"
        );
    }
}

#[test]
fn only_open_names_the_backends() {
    // And the entry points for fuzzers.
    no_arrow(|source, path| {
        BACKENDS.contains(&head(path)) && ![head(path), "open", "fuzz"].contains(&source.top())
    });
}

#[test]
fn backends_share_only_what_is_below_them() {
    no_arrow(|source, path| BACKENDS.contains(&source.top()) && ABOVE.contains(&head(path)));
}

#[test]
fn contracts_and_what_backends_share_know_no_backend_and_nothing_above() {
    no_arrow(|source, path| {
        let below = ["store", "queue", "error", "limits", "clock", "in_memory"];
        below.contains(&source.top()) && ABOVE.contains(&head(path))
    });
}
