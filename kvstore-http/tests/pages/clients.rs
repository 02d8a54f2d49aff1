//! Do the generators and linters of OpenAPI accept the document, and do the generated clients work?
//!
//! Each tool runs on the document of the real server, without a warning; the clients then write,
//! read, wait and fail against that server (`clients/`).

use std::path::{Path, PathBuf};
use std::process::Command;

use kvstore_testing::client::{Connection, request};
use kvstore_testing::process::Process;
use kvstore_testing::{judge, tool};

const PYTHON_TOOLS: &str = "target/venv/bin";
const NODE_TOOLS: &str = "target/node/node_modules";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Returns the command of a program that `./check` installs.
fn installed(folder: &str, name: &str) -> Command {
    judge(&root().join(folder).join(name))
}

/// Runs `command`, which must succeed, and returns its output.
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text += &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}\n{text}");
    text
}

/// A server, and a folder with its document and the files of the tests.
struct Bench {
    process: Process,
    folder: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let process = Process::start(&["--store", "memory:"]);
        let folder = tempfile::tempdir().unwrap();
        let mut connection = Connection::open(process.address).await;
        let document = connection.ask(&request("GET", "/openapi.json")).await;
        std::fs::write(folder.path().join("openapi.json"), document.body).unwrap();
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pages/clients");
        for source in std::fs::read_dir(sources).unwrap() {
            let source = source.unwrap();
            std::fs::copy(source.path(), folder.path().join(source.file_name())).unwrap();
        }
        Self { process, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &mut Command) -> String {
        succeed(command.current_dir(self.folder.path()))
    }

    fn url(&self) -> String {
        format!("http://{}", self.process.address)
    }
}

/// Returns the names of the document's operations.
fn operations(document: &Path) -> Vec<String> {
    let document = std::fs::read(document).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|path| path.as_object().unwrap().values());
    let names = operations.map(|operation| operation["operationId"].as_str().unwrap().to_owned());
    names.collect()
}

#[tokio::test]
async fn python_client_has_every_operation_and_makes_a_round_trip() {
    let bench = Bench::new().await;
    bench.run(installed(PYTHON_TOOLS, "openapi-python-client").args([
        "generate",
        "--path=openapi.json",
        "--config=generator.yaml",
        "--meta=none",
        "--output-path=kvstore_client",
        "--fail-on-warning",
    ]));
    bench.run(installed(PYTHON_TOOLS, "datamodel-codegen").args([
        "--input=openapi.json",
        "--input-file-type=openapi",
        "--output=models.py",
        "--output-model-type=pydantic_v2.BaseModel",
        "--formatters=builtin",
    ]));
    let mut modules = 0;
    for tag in std::fs::read_dir(bench.path("kvstore_client/api")).unwrap() {
        let tag = tag.unwrap().path();
        if tag.is_dir() {
            let files = std::fs::read_dir(tag).unwrap();
            let names = files.map(|file| file.unwrap().file_name());
            modules += names.filter(|name| name != "__init__.py").count();
        }
    }
    assert_eq!(modules, operations(&bench.path("openapi.json")).len());
    let mut round_trip = installed(PYTHON_TOOLS, "python");
    let said = bench.run(
        round_trip
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args(["round_trip.py", &bench.url()]),
    );
    assert!(said.contains("round trip: ok"), "{said}");
}

#[tokio::test]
async fn typescript_client_compiles_and_makes_a_round_trip() {
    let bench = Bench::new().await;
    let modules = root().join(NODE_TOOLS);
    std::os::unix::fs::symlink(&modules, bench.path("node_modules")).unwrap();
    bench.run(
        installed(NODE_TOOLS, ".bin/openapi-typescript")
            .args(["openapi.json", "--output=api.d.ts"]),
    );
    bench.run(installed(NODE_TOOLS, ".bin/tsc").args([
        "--strict",
        "--noUncheckedIndexedAccess",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--types",
        "node",
        "round_trip.mts",
    ]));
    let said = bench.run(tool("node").args(["round_trip.mjs", &bench.url()]));
    assert!(said.contains("round trip: ok"), "{said}");
}

#[tokio::test]
async fn java_client_has_every_operation() {
    let bench = Bench::new().await;
    bench.run(installed(PYTHON_TOOLS, "openapi-generator-cli").args([
        "generate",
        "--generator-name=java",
        "--input-spec=openapi.json",
        "--output=java",
    ]));
    let sources = bench.path("java/src/main/java/org/openapitools/client/api");
    let sources: String = std::fs::read_dir(sources)
        .unwrap()
        .map(|source| std::fs::read_to_string(source.unwrap().path()).unwrap())
        .collect();
    let names = operations(&bench.path("openapi.json"));
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        assert!(sources.contains(&format!(" {name}(")), "no method {name}");
    }
}

#[tokio::test]
async fn linters_report_no_error() {
    let bench = Bench::new().await;
    bench.run(installed(NODE_TOOLS, ".bin/spectral").args([
        "lint",
        "--ruleset=spectral.json",
        "--fail-severity=error",
        "openapi.json",
    ]));
    bench.run(installed(NODE_TOOLS, ".bin/redocly").args(["lint", "openapi.json"]));
}
