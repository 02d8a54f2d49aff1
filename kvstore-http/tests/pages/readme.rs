//! Do the README and the pages of `docs/` hold as written: all commands, and all statements about
//! settings and tests? And do their links lead somewhere?
//!
//! The `sh` blocks of a page run in order in a folder of its own, each in a shell of its own, and
//! their output is compared with the `text` block right after them. There are two substitutions:
//! `cargo` runs the programs that are already built, and curl and `kvstore` use the free port. The
//! `rust` block is a doctest of `kvstore-core`.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvstore_testing::process::{Process, clean, program, programs};
use kvstore_testing::tool;

/// A page for people: its path from the root of the workspace, and its text.
type Page = (&'static str, &'static str);

const README: Page = ("README.md", include_str!("../../../README.md"));
const HTTP_API: Page = (
    "docs/http-api.md",
    include_str!("../../../docs/http-api.md"),
);
const OPERATING: Page = (
    "docs/operating.md",
    include_str!("../../../docs/operating.md"),
);
const CONFIGURATION: Page = (
    "docs/configuration.md",
    include_str!("../../../docs/configuration.md"),
);
const GUARANTEES: Page = (
    "docs/guarantees.md",
    include_str!("../../../docs/guarantees.md"),
);
const DESIGN: Page = ("docs/design.md", include_str!("../../../docs/design.md"));
const CONTRIBUTING: Page = ("CONTRIBUTING.md", include_str!("../../../CONTRIBUTING.md"));

/// The pages whose commands are run.
const PAGES: [Page; 7] = [
    README,
    HTTP_API,
    OPERATING,
    CONFIGURATION,
    GUARANTEES,
    DESIGN,
    CONTRIBUTING,
];

/// A newcomer reads all of it.
const README_BYTES_MAX: usize = 9 * 1024;

/// Commands that would take too long here or never end: the file that runs them instead, and text
/// in it that proves so.
const ELSEWHERE: [(&str, &str, &str); 20] = [
    (
        "cargo install --path kvstore-cli",
        "check",
        "cargo install --path kvstore-cli --locked --root",
    ),
    ("./check", "check", "cargo test --workspace"),
    ("./check --quick", "check", "./check --quick"),
    ("./check --available", "check", "--available) step"),
    (
        "cargo run --example quick_start",
        "check",
        "cargo run --quiet --example",
    ),
    // Only compiled: it takes minutes.
    (
        "cargo bench",
        "check",
        "cargo clippy --workspace --all-targets",
    ),
    (
        "KVSTORE_KILL_ROUNDS=50 cargo test -p kvstore-http --test disk -- --nocapture kill::",
        "kvstore-http/tests/disk/kill.rs",
        "KVSTORE_KILL_ROUNDS=50 cargo test -p kvstore-http --test disk -- --nocapture kill::",
    ),
    (
        "KVSTORE_FLEET_KILLS=200 cargo test -p kvstore-http --test redis -- --nocapture fleet_on",
        "kvstore-http/tests/redis/fleet/mod.rs",
        "KVSTORE_FLEET_KILLS=200 cargo test -p kvstore-http --test redis -- --nocapture fleet_on",
    ),
    (
        "KVSTORE_CLUSTER_ROUNDS=10 cargo test -p kvstore-http --test redis -- --nocapture fleet_on_a_cluster",
        "kvstore-http/tests/redis/fleet/on_cluster.rs",
        "KVSTORE_CLUSTER_ROUNDS=10 cargo test -p kvstore-http --test redis -- --nocapture fleet_on_a_cluster",
    ),
    (
        "PROPTEST_CASES=10000 cargo test -p kvstore-core",
        "kvstore-core/src/fuzz.rs",
        "PROPTEST_CASES=10000 cargo test -p kvstore-core",
    ),
    (
        "cargo mutants -p kvstore-core -- --lib --test conformance --test folder",
        ".cargo/mutants.toml",
        "cargo mutants -p kvstore-core -- --lib --test conformance --test folder",
    ),
    (
        "cargo mutants -p kvstore-http -- --lib --test api --test server",
        ".cargo/mutants.toml",
        "cargo mutants -p kvstore-http -- --lib --test api --test server",
    ),
    (
        "cargo +nightly fuzz run journal -- -max_total_time=600",
        "kvstore-core/src/fuzz.rs",
        "cargo +nightly fuzz run journal -- -max_total_time=600",
    ),
    (
        "KVSTORE_FAULTS=all cargo test -p kvstore-http --test disk -- --nocapture faults::",
        "kvstore-http/tests/disk/faults.rs",
        "KVSTORE_FAULTS=all cargo test -p kvstore-http --test disk -- --nocapture faults::",
    ),
    (
        "KVSTORE_POWER_ROUNDS=100 cargo test -p kvstore-http --test disk -- --nocapture power::",
        "kvstore-http/tests/disk/power.rs",
        "KVSTORE_POWER_ROUNDS=100 cargo test -p kvstore-http --test disk -- --nocapture power::",
    ),
    (
        "redis-server --port 7001 --appendonly yes --appendfsync always --daemonize yes",
        "kvstore-testing/src/redis.rs",
        "\"--appendonly\", \"yes\", \"--appendfsync\", \"always\"",
    ),
    (
        "for port in 8000 8001 8002; do cargo run --release -p kvstore-http -- --store redis://127.0.0.1:7001 --listen 127.0.0.1:$port & done",
        "kvstore-http/tests/redis/several.rs",
        "Process::start(&[\"--store\", &store])",
    ),
    (
        "for worker in 1 2 3 4; do cargo run --release -p kvstore-worker -- --store redis://127.0.0.1:7001 & done",
        "kvstore-http/tests/redis/several.rs",
        "worker(&store)",
    ),
    (
        "for port in 8000 8001 8002; do cargo run --release -p kvstore-http -- --worker none --store file:shared --queue 'redis://127.0.0.1:7001?prefix=shared' --listen 127.0.0.1:$port & done",
        "kvstore-http/tests/redis/shared.rs",
        "Process::launch(&[\"--worker\", \"none\", \"--store\", &store, \"--queue\", &queue])",
    ),
    (
        "for worker in 1 2; do cargo run --release -p kvstore-worker -- --store file:shared --queue 'redis://127.0.0.1:7001?prefix=shared' & done",
        "kvstore-http/tests/redis/shared.rs",
        ".args([\"--store\", store, \"--queue\", queue])",
    ),
];

/// The substitute for `cargo run`: runs the program that is already built.
const CARGO: &str = r#"#!/bin/sh
[ "$1 $2 $3" = "run --release -p" ] || { echo "not a line that this replaces: cargo $*" >&2; exit 64; }
program=$4
shift 4
[ "${1-}" != -- ] || shift
exec "$PROGRAMS/$program" "$@"
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
}

/// A fenced block.
struct Block {
    page: &'static str,
    language: &'static str,
    text: &'static str,
    /// The lines of its first and last fence.
    lines: (usize, usize),
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (page, line, text) = (self.page, self.lines.0, self.text);
        write!(f, "{page}, line {line}:\n{text}")
    }
}

fn blocks((page, text): Page) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut begun: Option<(&str, usize, usize)> = None;
    let mut at = 0;
    for (line, number) in text.split_inclusive('\n').zip(1..) {
        if let Some(language) = line.strip_prefix("```") {
            begun = match begun {
                None => Some((language.trim_end(), number, at + line.len())),
                Some((language, first, start)) => {
                    let text = text[start..at].trim_end();
                    blocks.push(Block {
                        page,
                        language,
                        text,
                        lines: (first, number),
                    });
                    None
                }
            };
        }
        at += line.len();
    }
    assert!(begun.is_none(), "{page}: a block does not end");
    blocks
}

/// A person who follows a page.
struct Reader {
    folder: tempfile::TempDir,
    running: Option<Process>,
    /// The address of the current server, or of the last one.
    server: Option<SocketAddr>,
}

impl Reader {
    fn new() -> Self {
        for name in ["curl", "jq"] {
            assert!(tool(name).arg("--version").output().is_ok());
        }
        for name in ["kvstore-worker", "kvstore"] {
            program(name);
        }
        let folder = tempfile::tempdir().unwrap();
        let examples = folder.path().join("examples");
        fs::create_dir(&examples).unwrap();
        fs::copy(
            root().join("examples/data.json"),
            examples.join("data.json"),
        )
        .unwrap();
        let cargo = folder.path().join("cargo");
        fs::write(&cargo, CARGO).unwrap();
        fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
        Self {
            folder,
            running: None,
            server: None,
        }
    }

    fn shell(&self, script: &str) -> Command {
        let mut path = OsString::from(self.folder.path());
        path.push(":");
        path.push(programs());
        path.push(":");
        path.push(
            std::env::vars_os()
                .find(|(name, _)| name == "PATH")
                .expect("a PATH")
                .1,
        );
        let mut shell = clean(Command::new("sh"));
        shell
            .args(["-eu", "-c", script])
            .current_dir(self.folder.path())
            .env("PATH", path)
            .env("PROGRAMS", programs())
            .envs(
                self.server
                    .map(|address| ("KVSTORE_URL", format!("http://{address}"))),
            )
            .env("CURL_HOME", self.folder.path());
        shell
    }

    /// Runs a block and returns its output. A program that it starts continues to run.
    fn run(&mut self, block: &Block) -> String {
        let mut script = block.text;
        let mut program = None;
        let last = script.rfind('\n').map_or(0, |newline| newline + 1);
        if script[last..].starts_with("cargo run --release -p ") {
            (script, program) = (&script[..last], Some(&script[last..]));
        }
        let output = self.shell(script).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}\n{stderr}");
        if let Some(program) = program {
            self.start(program);
        }
        if script.starts_with("kill ") {
            let mut process = self.running.take().expect("something runs");
            assert_eq!(process.ended().code(), Some(0), "{block}");
        }
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&mut self, line: &str) {
        assert!(self.running.is_none(), "{line}: another one runs");
        // `exec`, so that the program itself is awaited, and ends with the test.
        let process = Process::launch_command(self.shell(&format!("exec {line}")));
        process.logged("working");
        if line.contains("kvstore-worker") {
            let mut process = process;
            assert_eq!(process.ended().code(), Some(0), "{line}");
            return;
        }
        if line.contains("kvstore-http") {
            let address = process.logged_address("serving");
            self.send_curl_to(address);
            self.server = Some(address);
        }
        self.running = Some(process);
    }

    fn send_curl_to(&self, address: SocketAddr) {
        let line = format!("connect-to = \"127.0.0.1:8000:{address}\"\n");
        fs::write(self.folder.path().join(".curlrc"), line).unwrap();
    }
}

#[test]
fn every_line_to_type_works_as_written() {
    let compared: usize = PAGES.into_iter().map(follow).sum();
    assert!(compared > 10, "{compared} answers were compared");
}

/// Runs the blocks of a page in order, and returns the number of compared answers.
fn follow(page: Page) -> usize {
    let mut reader = Reader::new();
    let blocks = blocks(page);
    let mut compared = 0;
    for (block, next) in blocks
        .iter()
        .zip(blocks.iter().skip(1).map(Some).chain([None]))
    {
        let is_elsewhere = |line: &str| ELSEWHERE.iter().any(|(typed, ..)| *typed == line);
        if block.language != "sh" || block.text.lines().all(is_elsewhere) {
            continue;
        }
        let printed = reader.run(block);
        let expected =
            next.filter(|next| next.language == "text" && next.lines.0 == block.lines.1 + 1);
        if let Some(expected) = expected {
            compare(block, expected.text, &printed);
            compared += 1;
        }
    }
    assert!(
        reader.running.is_none(),
        "{}: it leaves something running",
        page.0
    );
    compared
}

/// Checks that `printed` contains the lines of `expected` in their order, possibly among others.
fn compare(block: &Block, expected: &str, printed: &str) {
    let mut lines = printed.lines();
    for wanted in expected.lines() {
        assert!(
            lines.any(|line| is_like(wanted, line.trim_end())),
            "{block}\nprints\n{printed}\nand not\n{wanted}"
        );
    }
}

/// Returns true if `line` matches `wanted`, in which `…` matches anything.
fn is_like(wanted: &str, line: &str) -> bool {
    let Some((start, rest)) = wanted.split_once('…') else {
        return wanted == line;
    };
    let Some(mut line) = line.strip_prefix(start) else {
        return false;
    };
    let (middle, end) = rest.rsplit_once('…').unwrap_or(("", rest));
    for part in middle.split('…') {
        match line.split_once(part) {
            Some((_, behind)) => line = behind,
            None => return false,
        }
    }
    line.ends_with(end)
}

#[test]
fn what_is_not_typed_here_is_run_elsewhere() {
    for (line, file, words) in ELSEWHERE {
        assert!(
            PAGES
                .iter()
                .any(|(_, text)| text.lines().any(|typed| typed == line)),
            "no page says {line} any more"
        );
        let text = fs::read_to_string(root().join(file)).unwrap();
        assert!(
            text.contains(words),
            "{file} does not run {line}: no {words:?} in it"
        );
    }
}

#[test]
fn settings_are_those_of_the_programs() {
    let (http, worker) = (rows("kvstore-http"), rows("kvstore-worker"));
    let (shared, of_http): (Vec<_>, Vec<_>) =
        http.into_iter().partition(|row| worker.contains(row));
    let of_worker = worker.into_iter().filter(|row| !shared.contains(row));
    let expected: Vec<String> = shared
        .iter()
        .chain(&of_http)
        .cloned()
        .chain(of_worker)
        .collect();
    let found: Vec<&str> = CONFIGURATION
        .1
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .collect();
    assert_eq!(found, expected);
}

/// Returns a row for each setting in the help of `program`.
fn rows(program: &str) -> Vec<String> {
    let print = |flag: &str| {
        let output = Command::new(programs().join(program))
            .arg(flag)
            .env_clear()
            .output();
        String::from_utf8(output.expect("cargo build --workspace --bins").stdout).unwrap()
    };
    let (help, config) = (print("--help"), print("--print-config"));
    config
        .lines()
        .map(|line| {
            let flag = line.split(' ').next().unwrap();
            let mut help = help.lines();
            let says = help.find(|line| line.trim_start().split([' ', '[']).next() == Some(flag));
            let about = says
                .and(help.next())
                .unwrap_or_else(|| panic!("no help on {flag}"));
            let between = |start: &str, end: &str| {
                let (_, rest) = about.split_once(start).unwrap();
                rest.split_once(end).unwrap().0.to_owned()
            };
            let default = between("[default: ", "]");
            // Brackets hold the effective default of a setting without a value.
            let has_value = !line[flag.len()..].trim_start().starts_with('(');
            let default = if has_value {
                format!("`{default}`")
            } else {
                default
            };
            let what_for = about.trim_start().split_once(" [").unwrap().0;
            format!(
                "| `{flag}` | `{}` | {default} | {what_for} |",
                between("[env: ", "]")
            )
        })
        .collect()
}

#[test]
fn commands_are_those_of_the_program() {
    let help = Command::new(programs().join("kvstore")).arg("-h").output();
    let help = String::from_utf8(help.unwrap().stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let rows: Vec<String> = commands
        .lines()
        .filter_map(|line| line.trim().split_once("  "))
        .map(|(name, about)| format!("| `kvstore {name}` | {} |", about.trim()))
        .collect();
    let mut found = 0;
    for line in OPERATING
        .1
        .lines()
        .filter(|line| line.starts_with("| `kvstore "))
    {
        assert!(rows.iter().any(|row| row == line), "{line}");
        found += 1;
    }
    assert!(found >= 8, "{found}");
}

#[test]
fn readme_is_read_in_a_few_minutes() {
    assert!(README.1.len() <= README_BYTES_MAX, "{}", README.1.len());
}

/// Checks that the figures of the README occur in the tables of the benches.
#[test]
fn figures_are_those_of_the_benches() {
    let benches = include_str!("../../../benches/README.md");
    let (_, section) = README.1.split_once("## Figures").unwrap();
    let (section, _) = section.split_once("\n## ").unwrap();
    let mut found = 0;
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        for cell in row.split('|').map(str::trim) {
            if cell.starts_with(|first: char| first.is_ascii_digit()) {
                let is_there = benches.contains(&format!("| {cell} |"));
                assert!(is_there, "benches/README.md has no {cell}");
                found += 1;
            }
        }
    }
    assert!(found >= 3, "{found}");
}

/// Returns the committed copy of the OpenAPI document, which the server's tests compare with its
/// answers.
fn document() -> serde_json::Value {
    serde_json::from_str(include_str!("../../openapi.json")).unwrap()
}

#[test]
fn routes_are_those_of_the_document() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();
    let expected: BTreeSet<String> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            let methods = methods.filter(|name| !["head", "parameters"].contains(&name.as_str()));
            methods.map(move |name| format!("{} {path}", name.to_uppercase()))
        })
        .collect();
    let rows = HTTP_API.1.lines();
    let found: BTreeSet<String> = rows
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.contains(" /"))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn limits_are_those_of_the_document() {
    let document = document();
    let limits = document["x-limits"].as_object().unwrap();
    let expected: Vec<String> = limits
        .iter()
        .map(|(name, value)| format!("| `{name}` | {value} |"))
        .collect();
    let (_, table) = HTTP_API
        .1
        .split_once("| limit | default |\n|---|---|\n")
        .unwrap();
    let found: Vec<&str> = table.lines().take_while(|line| !line.is_empty()).collect();
    assert_eq!(found, expected);
}

/// Collects all Markdown files of the project.
fn markdown(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                markdown(&path, found);
            }
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Returns the lines of a page outside its fenced blocks.
fn prose(text: &str) -> String {
    let mut is_fenced = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        !is_fenced && !is_fence
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns the anchors of a page's headings, in GitHub's format.
fn anchors(text: &str) -> Vec<String> {
    let mut anchors: Vec<String> = Vec::new();
    for line in prose(text).lines().filter(|line| line.starts_with('#')) {
        let kept = line
            .trim_start_matches('#')
            .trim()
            .chars()
            .filter_map(|one| match one {
                ' ' => Some('-'),
                '-' | '_' => Some(one),
                _ => one.is_alphanumeric().then(|| one.to_ascii_lowercase()),
            });
        let anchor: String = kept.collect();
        let earlier = anchors.iter().filter(|one| **one == anchor).count();
        anchors.push(match earlier {
            0 => anchor,
            _ => format!("{anchor}-{earlier}"),
        });
    }
    anchors
}

/// Returns the link targets in a page, except for web addresses.
fn targets(text: &str) -> Vec<String> {
    let prose = prose(text);
    let targets = prose.split("](").skip(1);
    targets
        .map(|part| part.split_once(')').unwrap().0.to_owned())
        .filter(|target| !target.contains("://"))
        .collect()
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut pages = Vec::new();
    markdown(root(), &mut pages);
    let mut dead = Vec::new();
    let mut links = 0;
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        for target in targets(&text) {
            links += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let leads = to.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&to).unwrap()).contains(&anchor.to_owned()));
            if !leads {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "links that lead nowhere: {dead:#?}");
    assert!(
        pages.len() > 10 && links > 100,
        "{} pages, {links} links",
        pages.len()
    );
}

#[test]
fn every_guarantee_names_a_test_that_is_there() {
    let (page, text) = GUARANTEES;
    let mut tests = 0;
    for part in text.split("[`").skip(1) {
        let Some((name, target)) = part.split_once("`](") else {
            panic!("{page}: no link behind {part}");
        };
        let (target, _) = target.split_once(')').unwrap();
        let path = root().join("docs").join(target);
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{target}: {error}"));
        if name.ends_with(".rs") {
            continue;
        }
        assert!(
            text.contains(&format!("fn {name}(")),
            "{target} has no test {name}"
        );
        tests += 1;
    }
    assert!(tests > 80, "{tests} tests are named");
}

/// Checks that the README of the core, which is a part of its package, has the same block: the core
/// runs it as a doctest.
#[test]
fn rust_block_is_that_of_the_core() {
    let core = include_str!("../../../kvstore-core/README.md");
    let of_rust = |block: &&Block| block.language == "rust";
    let blocks = blocks(README);
    let rust: Vec<&Block> = blocks.iter().filter(of_rust).collect();
    assert!(!rust.is_empty());
    for block in rust {
        assert!(core.contains(&format!("```rust\n{}\n```\n", block.text)));
    }
}
