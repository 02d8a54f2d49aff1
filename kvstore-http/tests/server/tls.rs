//! Does the server speak TLS with common clients, and accept a new certificate while it runs?

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kvstore_testing::process::{Process, run};
use kvstore_testing::tool;

/// Longer than anything here takes, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Self-signed certificates, each with its key.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new(names: &[&str]) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        for name in names {
            let made = tool("openssl")
                .args([
                    "req",
                    "-x509",
                    "-newkey",
                    "ec",
                    "-pkeyopt",
                    "ec_paramgen_curve:prime256v1",
                ])
                .args(["-nodes", "-days", "2", "-subj", &format!("/CN={name}")])
                .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
                .arg("-keyout")
                .arg(this.path(&format!("{name}.key")))
                .arg("-out")
                .arg(this.path(&format!("{name}.pem")))
                .output()
                .unwrap();
            assert!(made.status.success(), "{made:?}");
        }
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Replaces the files that the server reads by those of `name`.
    #[expect(clippy::disallowed_methods, reason = "no files of the store")]
    fn install(&self, name: &str) {
        for kind in ["key", "pem"] {
            let new = self.path(&format!("new.{kind}"));
            fs::copy(self.path(&format!("{name}.{kind}")), &new).unwrap();
            fs::rename(&new, self.path(&format!("live.{kind}"))).unwrap();
        }
    }

    /// Starts a server with the live files.
    fn serve(&self, args: &[&str]) -> Process {
        self.with_files(args, Process::start)
    }

    fn with_files(&self, args: &[&str], start: fn(&[&str]) -> Process) -> Process {
        let (certificate, key) = (self.text("live.pem"), self.text("live.key"));
        let tls = [
            "--store",
            "memory:",
            "--tls-cert",
            &certificate,
            "--tls-key",
            &key,
        ];
        start(&[&tls, args].concat())
    }
}

/// Requests a page with curl, trusting one certificate; returns body, status and version, or `None`
/// if there was no answer.
fn curl(process: &Process, trusted: &Path, args: &[&str]) -> Option<String> {
    let output = tool("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--write-out",
            " %{http_code} %{http_version}",
        ])
        .arg("--cacert")
        .arg(trusted)
        .args(args)
        .arg(format!(
            "https://localhost:{}/v1/kv/a",
            process.address.port()
        ))
        .output()
        .expect("curl is installed");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    output.status.success().then_some(text)
}

#[test]
fn clients_speak_tls_from_1_2_on_and_http_1_1_within() {
    let certificates = Certificates::new(&["first", "other"]);
    certificates.install("first");
    let mut server = certificates.serve(&[]);
    let trusted = certificates.path("first.pem");
    let put = curl(&server, &trusted, &["-X", "PUT", "--json", "[1.0]"]);
    assert!(put.is_some_and(|put| put.ends_with(" 201 1.1")));
    for version in [
        &["--tls-max", "1.2"][..],
        &["--tlsv1.3"],
        &["--http2"],
        &["--http1.1"],
    ] {
        let got = curl(&server, &trusted, version);
        assert_eq!(got.as_deref(), Some("[1.0] 200 1.1"), "{version:?}");
    }
    // A large answer and an equally large body.
    let large = certificates.path("large.json");
    fs::write(&large, format!("\"{}\"", "x".repeat(1_000_000))).unwrap();
    let sent = format!("@{}", large.display());
    let put = curl(&server, &trusted, &["-X", "PUT", "--json", &sent]);
    assert!(put.is_some_and(|put| put.ends_with(" 200 1.1")));
    let got = curl(&server, &trusted, &[]).unwrap();
    assert!(got.split(' ').next() == Some(&fs::read_to_string(&large).unwrap()));
    // Clients with another trust anchor, plain HTTP, an old TLS version or only HTTP/2 are refused;
    // the others are served.
    assert!(curl(&server, &certificates.path("other.pem"), &[]).is_none());
    let old = ["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"];
    assert!(curl(&server, &trusted, &old).is_none());
    for (protocol, is_served) in [("http/1.1", true), ("h2", false)] {
        let spoken = tool("openssl")
            .args([
                "s_client",
                "-connect",
                &server.address.to_string(),
                "-alpn",
                protocol,
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(spoken.status.success(), is_served, "{protocol}: {spoken:?}");
    }
    let mut plain = TcpStream::connect(server.address).unwrap();
    plain
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert!(curl(&server, &trusted, &[]).is_some());
    server.signal("TERM");
    assert!(server.ended().success());
    assert_eq!(server.errors(), [] as [serde_json::Value; 0]);
}

#[test]
fn page_to_open_in_a_browser_is_named_as_it_is_reached() {
    let certificates = Certificates::new(&["first"]);
    certificates.install("first");
    let serving = certificates
        .with_files(&["--listen", "127.0.0.1:0"], Process::launch)
        .logged("serving");
    let url = format!("https://{}/", serving["address"].as_str().unwrap());
    assert_eq!(serving["url"], url);
}

#[test]
fn handshake_that_does_not_end_is_cut_off() {
    let certificates = Certificates::new(&["first"]);
    certificates.install("first");
    let server = certificates.serve(&["--head-timeout", "300ms"]);
    for beginning in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(beginning).unwrap();
        let heard = stream.read(&mut [0]);
        // The test's own timeout would be an error of this kind.
        assert!(!heard.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    }
    assert!(curl(&server, &certificates.path("first.pem"), &[]).is_some());
}

#[test]
fn new_certificate_is_taken_at_once_on_sighup_and_soon_without() {
    let certificates = Certificates::new(&["first", "second", "third"]);
    certificates.install("first");
    let server = certificates.serve(&[]);
    let serves = |name: &str| {
        let trusted = certificates.path(&format!("{name}.pem"));
        curl(&server, &trusted, &[]).is_some()
    };
    let comes = |name: &str| {
        let begun = Instant::now();
        while !serves(name) {
            assert!(begun.elapsed() < PATIENCE, "{name} is not taken");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert!(serves("first") && !serves("second"));
    certificates.install("second");
    server.signal("HUP");
    comes("second");
    certificates.install("third");
    comes("third");
    // A key that does not match changes nothing.
    fs::copy(
        certificates.path("first.key"),
        certificates.path("live.key"),
    )
    .unwrap();
    server.signal("HUP");
    let said = server.logged("the certificate stays as it was");
    assert!(
        said["reason"].as_str().unwrap().contains("live.key"),
        "{said}"
    );
    assert!(serves("third"));
}

#[test]
fn files_that_are_no_certificate_with_its_key_are_wrong_settings() {
    let certificates = Certificates::new(&["first", "second"]);
    let path = |name: &str| certificates.text(name);
    for (args, named) in [
        (vec!["--tls-cert", &*path("first.pem")], "--tls-key"),
        (vec!["--tls-key", &*path("first.key")], "--tls-cert"),
        (
            vec![
                "--tls-cert",
                &*path("none.pem"),
                "--tls-key",
                &*path("first.key"),
            ],
            "none.pem",
        ),
        (
            vec![
                "--tls-cert",
                &*path("first.key"),
                "--tls-key",
                &*path("first.key"),
            ],
            "first.key",
        ),
        (
            vec![
                "--tls-cert",
                &*path("first.pem"),
                "--tls-key",
                &*path("first.pem"),
            ],
            "first.pem",
        ),
        (
            vec![
                "--tls-cert",
                &*path("first.pem"),
                "--tls-key",
                &*path("second.key"),
            ],
            "second.key",
        ),
    ] {
        let store = format!("file:{}", certificates.text("store"));
        let ended = run(&[&["--store", &store][..], &args].concat(), &[]);
        assert_eq!((ended.code, ended.stderr.len()), (Some(2), 1), "{ended:?}");
        assert!(ended.stderr[0].contains(named), "{ended:?}");
        assert!(!certificates.path("store").exists());
    }
}

#[test]
fn unix_socket_beside_speaks_plain_http() {
    let certificates = Certificates::new(&["first"]);
    certificates.install("first");
    let listen = format!("127.0.0.1:0,unix:{}", certificates.text("kv.sock"));
    let server = certificates.with_files(&["--listen", &listen], Process::launch);
    server.logged("serving");
    let output = tool("curl")
        .args([
            "--silent",
            "--fail",
            "--unix-socket",
            &certificates.text("kv.sock"),
        ])
        .arg("http://localhost/livez")
        .output()
        .expect("curl is installed");
    assert!(output.status.success(), "{output:?}");
}
