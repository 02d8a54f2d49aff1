//! Does one server listen on several endpoints at once, including Unix sockets, and leave none of
//! them behind?

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kvstore_testing::process::{Process, run};
use kvstore_testing::tool;

/// A server on a Unix socket and other endpoints.
struct Listening {
    process: Process,
    /// Its endpoints, in the order of its settings.
    places: Vec<String>,
}

fn start(args: &[&str]) -> Listening {
    let process = Process::launch(&[&["--store", "memory:"], args].concat());
    let address = process.logged("serving")["address"].take();
    let places = address.as_str().expect("a text").split(", ");
    let places = places.map(str::to_owned).collect();
    Listening { process, places }
}

/// Returns curl's output: the body, followed by the status.
fn curl(args: &[&str]) -> String {
    let output = tool("curl")
        .args([
            "--silent",
            "--max-time",
            "20",
            "--write-out",
            " %{http_code}",
        ])
        .args(args)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn curl_socket(path: &Path, args: &[&str]) -> String {
    let path = path.to_str().expect("UTF-8");
    curl(&[&["--unix-socket", path], args].concat())
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("a socket").permissions().mode() & 0o777
}

fn socket() -> (tempfile::TempDir, PathBuf, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv.sock");
    let flag = format!("unix:{}", path.display());
    (folder, path, flag)
}

#[test]
fn all_listeners_serve_one_store_and_all_are_gone_at_the_end() {
    let (folder, path, flag) = socket();
    let second = folder.path().join("second.sock");
    let both = format!("127.0.0.1:0, {flag}");
    let second_flag = format!("unix:{}", second.display());
    let mut server = start(&[
        "--listen",
        "localhost:0",
        "--listen",
        &both,
        "--listen",
        &second_flag,
    ]);
    let [first, other, ..] = &server.places[..] else {
        panic!("{:?}", server.places);
    };
    assert_eq!(server.places[2..], [flag.clone(), second_flag]);
    let put = ["-X", "PUT", "--json", "[1.0]", "http://localhost/v1/kv/a"];
    assert!(curl_socket(&path, &put).ends_with(" 201"));
    for place in [first, other] {
        assert_eq!(
            curl(&[&format!("http://{place}/v1/kv/a")]),
            "[1.0] 200",
            "{place}"
        );
    }
    assert_eq!(
        curl_socket(&second, &["http://localhost/v1/kv/a"]),
        "[1.0] 200"
    );
    let addresses = [first.clone(), other.clone()];
    server.process.signal("TERM");
    assert!(server.process.ended().success());
    assert!(!path.exists() && !second.exists());
    for address in addresses {
        assert!(std::net::TcpStream::connect(address).is_err());
    }
}

#[test]
fn socket_is_for_its_user_alone_unless_more_are_let_in() {
    for (args, expected) in [
        (&[][..], 0o600),
        (&["--socket-mode", "660"][..], 0o660),
        (&["--socket-mode=0666"][..], 0o666),
    ] {
        let (_folder, path, flag) = socket();
        let _server = start(&[&["--listen", &flag], args].concat());
        assert_eq!(mode(&path), expected);
    }
    for wrong in ["rw", "888", "1777", "-1"] {
        let ended = run(
            &["--store", "memory:", &format!("--socket-mode={wrong}")],
            &[],
        );
        assert_eq!(ended.code, Some(2), "{wrong}");
        assert!(ended.stderr[0].contains("--socket-mode"), "{ended:?}");
    }
}

#[test]
fn socket_of_a_killed_server_is_taken_over_and_no_other_file_is() {
    let (folder, path, flag) = socket();
    let args = ["--store", "memory:", "--listen", &flag];
    let mut killed = start(&["--listen", &flag]);
    let second = run(&args, &[]);
    assert_eq!(second.code, Some(1));
    let said = second.stderr.join("\n");
    assert!(
        said.contains("kv.sock") && said.contains("in use"),
        "{said}"
    );
    assert_eq!(
        curl_socket(&path, &["http://localhost/livez"])
            .split(' ')
            .next_back(),
        Some("200")
    );
    killed.process.kill();
    assert!(path.exists());
    let mut server = start(&["--listen", &flag]);
    assert!(curl_socket(&path, &["http://localhost/livez"]).ends_with(" 200"));
    // Another program replaces the socket: its file is not removed.
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    server.process.signal("TERM");
    assert!(server.process.ended().success());
    assert!(fs::symlink_metadata(&path).unwrap().file_type().is_socket());
    drop(other);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    let refused = run(&args, &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let nowhere = format!("unix:{}/none/kv.sock", folder.path().display());
    let refused = run(&["--store", "memory:", "--listen", &nowhere], &[]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
}

#[test]
fn only_listeners_that_a_web_page_reaches_ask_for_the_name_of_this_machine() {
    let (_folder, path, flag) = socket();
    let server = start(&[
        "--listen",
        "127.0.0.1:0,0.0.0.0:0",
        "--listen",
        &flag,
        "--allow-unauthenticated",
    ]);
    let elsewhere = ["-H", "Host: evil.example"];
    let local = format!("http://{}/livez", server.places[0]);
    let port = server.places[1].rsplit(':').next().unwrap();
    let open = format!("http://127.0.0.1:{port}/livez");
    assert!(curl(&[&elsewhere[..], &[&local]].concat()).ends_with(" 421"));
    assert!(curl(&[&elsewhere[..], &[&open]].concat()).ends_with(" 200"));
    assert!(curl_socket(&path, &["http://evil.example/livez"]).ends_with(" 200"));
    let (_folder, path, flag) = socket();
    let _named = start(&[
        "--listen",
        &flag,
        "--allow-host",
        "kv.example",
        "--allow-host",
        "kv2.example",
    ]);
    for (host, status) in [
        ("evil.example", "421"),
        ("kv.example", "200"),
        ("kv2.example", "200"),
        ("localhost", "200"),
    ] {
        let answer = curl_socket(&path, &[&format!("http://{host}/livez")]);
        assert!(answer.ends_with(status), "{host}: {answer}");
    }
}

#[test]
fn every_client_that_reaches_a_socket_is_answered_while_the_server_ends() {
    let (_folder, path, flag) = socket();
    let mut server = start(&["--listen", &flag, "--listen", "127.0.0.1:0"]);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || {
                let mut answered = 0;
                while let Ok(mut stream) = UnixStream::connect(&path) {
                    let get =
                        b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
                    stream.write_all(get).expect("it is accepted");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("it is answered");
                    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    server.process.signal("TERM");
    assert!(server.process.ended().success());
    for client in clients {
        assert!(client.join().expect("every request was answered") > 0);
    }
}
