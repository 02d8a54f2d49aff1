//! How does the real server answer clients that try to trick it, tie it up or fill its memory?
//! Nothing here may make it panic, grow without bound, or do anything that was not requested.

use std::net::SocketAddr;
use std::time::Duration;

use kvstore_testing::client::{Connection, Reply, request};
use kvstore_testing::process::Process;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything here takes, so that a test fails rather than hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The server under attack.
struct Victim {
    process: Process,
    /// Its memory at rest, in KiB.
    resting_kib: u64,
}

impl Victim {
    async fn start(args: &[&str]) -> Self {
        let process = Process::start(&[&["--store", "memory:"], args].concat());
        let mut victim = Self {
            process,
            resting_kib: 0,
        };
        // Triggers all one-time allocations.
        for _ in 0..10 {
            assert_eq!(victim.ask("PUT", "/v1/kv/warm").await.status / 100, 2);
        }
        victim.resting_kib = victim.memory_kib("VmRSS");
        victim
    }

    fn address(&self) -> SocketAddr {
        self.process.address
    }

    async fn ask(&self, method: &str, target: &str) -> Reply {
        let asks = request(method, target);
        let asks = if method == "PUT" {
            asks.body("1")
        } else {
            asks
        };
        Connection::open(self.address()).await.ask(&asks).await
    }

    fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()));
        let status = status.expect("a process that runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.and_then(|rest| rest.split_whitespace().nth(1));
        words.and_then(|text| text.parse().ok()).expect("a number")
    }

    /// Checks that the server still works and ends well, and that its memory never exceeded the
    /// resting state by more than `growth_mib`.
    async fn must_be_unharmed(mut self, growth_mib: u64) {
        let most_mib = self.memory_kib("VmHWM").saturating_sub(self.resting_kib) >> 10;
        println!(
            "it grew by {most_mib} MiB at most, from {} MiB",
            self.resting_kib >> 10
        );
        assert!(most_mib <= growth_mib, "it grew by {most_mib} MiB");
        assert_eq!(self.ask("GET", "/v1/kv/smuggled").await.status, 404);
        assert_eq!(self.ask("GET", "/v1/kv/warm").await.status, 200);
        let metrics = self.ask("GET", "/metrics").await;
        assert!(metrics.text().contains("\nkvstore_http_panics_total 0\n"));
        self.process.signal("TERM");
        assert_eq!(self.process.ended().code(), Some(0));
        let errors = self.process.errors();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

/// Sends bytes unchanged and reads until nothing more arrives; returns the statuses of all answers,
/// and true if the server has closed.
async fn tell(address: SocketAddr, bytes: &[u8], then_close: bool) -> (Vec<u16>, bool) {
    /// Longer than any answer here takes.
    const QUIET: Duration = Duration::from_millis(700);
    let mut stream = TcpStream::connect(address)
        .await
        .expect("a server that listens");
    // The server may stop reading halfway.
    let _ = stream.write_all(bytes).await;
    if then_close {
        stream.shutdown().await.expect("a socket of ours");
    }
    let mut text = Vec::new();
    let is_closed = loop {
        match tokio::time::timeout(QUIET, stream.read_buf(&mut text)).await {
            Ok(Ok(0) | Err(_)) => break true,
            Ok(Ok(_)) => {}
            Err(_) => break false,
        }
    };
    let text = String::from_utf8_lossy(&text);
    let statuses = text.split("HTTP/1.1 ").skip(1);
    let statuses = statuses.map(|rest| rest[..3].parse().expect("a status"));
    (statuses.collect(), is_closed)
}

/// A request that an attacker tries to smuggle into another client's connection.
const SMUGGLED: &str =
    "PUT /v1/kv/smuggled HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1";

fn put(headers: &str, body: &str) -> String {
    format!("PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n\r\n{body}{SMUGGLED}")
}

fn chunked(body: &str) -> String {
    put("transfer-encoding: chunked", body)
}

#[tokio::test]
async fn body_whose_end_is_not_clear_is_refused_and_nothing_behind_it_is_read() {
    let victim = Victim::start(&[]).await;
    let whole = "1\r\n7\r\n0\r\n\r\n";
    for (bytes, status) in [
        // Two lengths.
        (put("content-length: 1\r\ncontent-length: 2", "1"), 400),
        (put("content-length: 1, 1", "1"), 400),
        // Malformed lengths.
        (put("content-length: -1", "1"), 400),
        (put("content-length: +1", "1"), 400),
        (put("content-length: 0x1", "1"), 400),
        (put("content-length: 1 1", "1"), 400),
        (put("content-length:", "1"), 400),
        (put("content-length: 18446744073709551616", "1"), 400),
        (put("content-length: 18446744073709551615", "1"), 431),
        (put("content-length: 9223372036854775807", "1"), 413),
        // Names that only resemble the right one.
        (put("content-length : 1", "1"), 400),
        (put("transfer-encoding : chunked", whole), 400),
        (put(" transfer-encoding: chunked", whole), 400),
        (put("content-length\0: 1", "1"), 400),
        // Encodings other than a single `chunked`.
        (
            put(
                "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
                whole,
            ),
            400,
        ),
        (put("transfer-encoding: chunked, identity", whole), 400),
        (put("transfer-encoding: gzip, chunked", whole), 400),
        (put("transfer-encoding: identity", whole), 400),
        (put("transfer-encoding: xchunked", whole), 400),
        (put("transfer-encoding: \u{b}chunked", whole), 400),
        (put("transfer-encoding: \"chunked\"", whole), 400),
        (
            chunked(whole).replace("HTTP/1.1\r\nhost", "HTTP/1.0\r\nhost"),
            400,
        ),
        // Malformed chunks.
        (chunked("1\n7\n0\n\n"), 400),
        (chunked("0x1\r\n7\r\n0\r\n\r\n"), 400),
        (chunked("-1\r\n7\r\n0\r\n\r\n"), 400),
        (chunked("\r\n7\r\n0\r\n\r\n"), 400),
        (chunked("zz\r\n7\r\n0\r\n\r\n"), 400),
        (chunked("fffffffffffffffff\r\n7\r\n0\r\n\r\n"), 400),
        (chunked("1;a\nb\r\n7\r\n0\r\n\r\n"), 400),
        (chunked("1\r\n77\r\n0\r\n\r\n"), 400),
        (chunked("1\r\n70\r\n\r\n"), 400),
        (chunked("1\r7\r0\r\r"), 400),
    ] {
        let (statuses, is_closed) = tell(victim.address(), bytes.as_bytes(), false).await;
        assert_eq!(
            (&statuses[..], is_closed),
            (&[status][..], true),
            "{bytes:?}"
        );
    }
    // None of these took effect, not even its first part.
    assert_eq!(victim.ask("GET", "/v1/kv/a").await.status, 404);
    // If both are given, the encoding applies, and nothing after the body is read (RFC 9112 §6.1).
    for bytes in [
        put("content-length: 3\r\ntransfer-encoding: chunked", whole),
        put("transfer-encoding: chunked\r\ncontent-length: 3", whole),
    ] {
        let (statuses, is_closed) = tell(victim.address(), bytes.as_bytes(), false).await;
        assert!(
            matches!(statuses[..], [200 | 201]) && is_closed,
            "{statuses:?} {is_closed} {bytes:?}"
        );
        assert_eq!(victim.ask("GET", "/v1/kv/a").await.text(), "7");
    }
    victim.must_be_unharmed(16).await;
}

#[tokio::test]
async fn head_that_can_be_read_in_two_ways_is_refused() {
    let victim = Victim::start(&[]).await;
    let get =
        |lines: &str| format!("GET /livez HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n{SMUGGLED}");
    for bytes in [
        get("a: b\rc: d\r\n"),
        get("a: b\r\n c: d\r\n"),
        get("a\r\n"),
        get(": b\r\n"),
        get("a b: c\r\n"),
        get("a\t: b\r\n"),
        get("a: \0\r\n"),
        get("host: localhost\r\n"),
        "GET /livez HTTP/1.1\rhost: localhost\r\r".to_owned() + SMUGGLED,
        "GET /livez HTTP/1.1\r\n host: localhost\r\n\r\n".to_owned() + SMUGGLED,
        "GET\t/livez\tHTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned() + SMUGGLED,
        "GET /get/a b HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned() + SMUGGLED,
        "GET /get/a\u{7f} HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned() + SMUGGLED,
        "GET /livez\r\n\r\n".to_owned() + SMUGGLED,
        "GET /livez HTTP/1.2\r\nhost: localhost\r\n\r\n".to_owned() + SMUGGLED,
        "GET /livez http/1.1\r\nhost: localhost\r\n\r\n".to_owned() + SMUGGLED,
    ] {
        let (statuses, is_closed) = tell(victim.address(), bytes.as_bytes(), false).await;
        // A second host is detected after the head, so the connection stays in step.
        let expected = if bytes.contains("host: localhost\r\nhost: localhost") {
            (vec![400, 201], false)
        } else {
            (vec![400], true)
        };
        assert_eq!((statuses, is_closed), expected, "{bytes:?}");
        assert_eq!(victim.ask("DELETE", "/v1/kv/smuggled").await.status, 200);
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(tell(victim.address(), preface, false).await, (vec![], true));
    victim.must_be_unharmed(16).await;
}

#[tokio::test]
async fn odd_requests_that_mean_one_thing_are_answered_and_the_connection_stays_in_step() {
    let victim = Victim::start(&[]).await;
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let next = "GET /v1/kv/none HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for (bytes, statuses) in [
        ("\r\n\r\n".to_owned() + &get("/livez"), vec![200]),
        ("GET /livez HTTP/1.1\nhost: localhost\n\n".to_owned(), vec![200]),
        (get("http://localhost/livez"), vec![200]),
        (get("http://elsewhere/livez"), vec![421]),
        (get("*"), vec![404]),
        (get("livez"), vec![421]),
        ("OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), vec![404]),
        ("CONNECT localhost:80 HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(), vec![404]),
        (get("/get/%00"), vec![422]),
        (get("/get/%"), vec![422]),
        (get("/get/%E9"), vec![422]),
        (get("/get/%ED%A0%80"), vec![422]),
        (get("/get/%F4%90%80%80"), vec![422]),
        (get("/get/..%2f..%2fetc/passwd"), vec![422]),
        (get("/get/../../etc/passwd"), vec![422]),
        (get("/get/%2e%2e"), vec![422]),
        (get("/get/%EF%BB%BFbom"), vec![404]),
        (get("/get/%25%32%46"), vec![404]),
        (get("/v1/kv/none?after=%FF"), vec![422]),
        (get("/v1/kv/none?meta=yes"), vec![422]),
        (get("/v1/jobs/x?wait=99999999999999999999999"), vec![404]),
        (get("/v1/jobs/x?wait=-1"), vec![422]),
        (get("/v1/jobs/%2e%2e"), vec![404]),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n".to_owned(), vec![200]),
        ("GET /livez HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nhello".to_owned(), vec![200]),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: CHUNKED\r\n\r\n1;ext=1\r\n7\r\n0\r\ncontent-length: 9\r\n\r\n".to_owned(),
            vec![201],
        ),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\n1".to_owned(),
            vec![200],
        ),
        (
            "PUT /v1/kv/a?ttl=99999999999999999999 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1".to_owned(),
            vec![422],
        ),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\nprefer: wait=99999999999999999999\r\ncontent-length: 1\r\n\r\n1".to_owned(),
            vec![200],
        ),
    ] {
        let (found, is_closed) = tell(victim.address(), (bytes.clone() + next).as_bytes(), false).await;
        let expected: Vec<u16> = statuses.into_iter().chain([404]).collect();
        assert_eq!((found, is_closed), (expected, true), "{bytes:?}");
    }
    victim.must_be_unharmed(16).await;
}

#[tokio::test]
async fn fragment_in_a_target_is_refused_and_never_cut_off() {
    let victim = Victim::start(&[]).await;
    // The value looks like a head, in the same read or a later one.
    let value = format!("\"{}\"", "PUT /a#b HTTP/1.1".repeat(10_000));
    for _ in 0..3 {
        for target in ["/v1/kv/user#1", "/v1/kv/user?ttl=5#1", "/v1/kv/user#"] {
            let mut connection = Connection::open(victim.address()).await;
            let reply = connection.ask(&request("PUT", target).body("1")).await;
            assert_eq!(reply.status, 400, "{target}");
            assert!(connection.is_closed().await);
            assert_eq!(reply.json()["type"], "/problems/malformed");
            assert!(reply.text().contains("%23"), "{}", reply.text());
        }
        let mut connection = Connection::open(victim.address()).await;
        let elsewhere = request("GET", "/get/a#b").header("host", "evil.example");
        assert_eq!(connection.ask(&elsewhere).await.status, 421);
        let mut connection = Connection::open(victim.address()).await;
        assert_eq!(
            connection.ask(&request("GET", "/v1/kv/user")).await.status,
            404
        );
        // Requests after a body with a `#` have no fragment because of that.
        for (key, value) in [
            ("user%231", "1"),
            ("hash", "\"#\""),
            ("behind", "\"# \""),
            ("user%232", &value),
        ] {
            let put = request("PUT", &format!("/v1/kv/{key}")).header("x-note", "PUT /#");
            assert_eq!(
                connection.ask(&put.body(value)).await.status / 100,
                2,
                "{key}"
            );
        }
        // A body that is too large is not read to its end.
        let large = request("PUT", "/v1/kv/large").body(value.repeat(20));
        let _ = Connection::open(victim.address()).await.ask(&large).await;
    }
    let head = "PUT /v1/kv/user#1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1";
    for cut in 1..head.len() {
        let mut stream = TcpStream::connect(victim.address()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(&head.as_bytes()[..cut]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
        stream.write_all(&head.as_bytes()[cut..]).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 400", "cut at {cut}");
    }
    assert_eq!(victim.ask("GET", "/v1/kv/user").await.status, 404);
    victim.must_be_unharmed(16).await;
}

#[tokio::test]
async fn fragment_in_a_request_that_comes_with_another_one_is_not_cut_off_either() {
    let victim = Victim::start(&[]).await;
    let bad = "PUT /v1/kv/user#1 HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1";
    for first in [
        "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1",
        "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n",
    ] {
        for cut in [0, 12, 17, 18, 20, 27] {
            let mut stream = TcpStream::connect(victim.address()).await.unwrap();
            let (begun, rest) = bad.split_at(cut);
            stream
                .write_all((first.to_owned() + begun).as_bytes())
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            // The server may have refused it already.
            let _ = stream.write_all(rest.as_bytes()).await;
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text).await;
            assert!(text.contains("HTTP/1.1 400"), "{first:?} {cut}: {text}");
            assert_eq!(victim.ask("GET", "/v1/kv/user").await.status, 404);
        }
    }
    victim.must_be_unharmed(16).await;
}

#[tokio::test]
async fn answer_is_heard_by_a_client_that_is_still_sending_a_body() {
    let victim = Victim::start(&[]).await;
    assert_eq!(victim.ask("PUT", "/v1/kv/a").await.status / 100, 2);
    for method in [
        "GET /livez",
        "GET /v1/kv/a",
        "GET /v1/kv/none",
        "DELETE /v1/kv/a",
    ] {
        for _ in 0..5 {
            let mut stream = TcpStream::connect(victim.address()).await.unwrap();
            let head =
                format!("{method} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 3000000\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            for _ in 0..300 {
                stream
                    .write_all(&[b'x'; 10_000])
                    .await
                    .expect("it reads on");
            }
            let mut status = [0; 9];
            stream
                .read_exact(&mut status)
                .await
                .expect("an answer, and no reset");
            assert_eq!(&status, b"HTTP/1.1 ", "{method}");
        }
    }
    victim.must_be_unharmed(32).await;
}

#[tokio::test]
async fn client_that_closes_its_side_is_answered_what_it_has_asked_whole() {
    let victim = Victim::start(&[]).await;
    for (bytes, statuses) in [
        ("GET /livez HTTP/1.1\r\nho".to_owned(), vec![]),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n1".to_owned(),
            vec![400],
        ),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\n1"
                .to_owned(),
            vec![400],
        ),
        (
            "PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n"
                .to_owned(),
            vec![400],
        ),
    ] {
        let told = tell(victim.address(), bytes.as_bytes(), true).await;
        assert_eq!(told, (statuses, true), "{bytes:?}");
    }
    assert_eq!(victim.ask("GET", "/v1/kv/a").await.status, 404);
    let get = "GET /v1/kv/none HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(50);
    let told = tell(victim.address(), get.as_bytes(), true).await;
    assert_eq!(told, (vec![404; 50], true));
    let put = "PUT /v1/kv/last HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\n1";
    let told = tell(victim.address(), put.as_bytes(), true).await;
    assert_eq!(told, (vec![201], true));
    assert_eq!(victim.ask("GET", "/v1/kv/last").await.text(), "1");
    victim.must_be_unharmed(16).await;
}

#[tokio::test]
async fn floods_of_heads_urls_and_chunks_end_at_their_limit() {
    let victim = Victim::start(&[]).await;
    let many = |count: usize| {
        (0..count)
            .map(|number| format!("x{number}: y\r\n"))
            .collect::<String>()
    };
    let get = |target: &str, lines: &str| {
        format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n{lines}\r\n")
    };
    let long = |count: usize| "a".repeat(count);
    let endless_head = format!(
        "GET /livez HTTP/1.1\r\nhost: localhost\r\na: {}",
        long(4 << 20)
    );
    let floods = [
        (get("/livez", &many(99)), vec![200], false),
        (get("/livez", &many(100)), vec![431], true),
        (get("/livez", &many(2000)), vec![431], true),
        (get("/livez", &"a: b\r\n".repeat(5000)), vec![431], true),
        (
            get("/livez", &format!("a: {}\r\n", long(40 << 10))),
            vec![431],
            true,
        ),
        (
            get("/livez", &format!("{}: a\r\n", long(40 << 10))),
            vec![431],
            true,
        ),
        (
            get(&format!("/get/{}", long(30 << 10)), ""),
            vec![422],
            false,
        ),
        (
            get(&format!("/get/{}", long(40 << 10)), ""),
            vec![431],
            true,
        ),
        (get(&format!("/get/{}", long(4 << 20)), ""), vec![431], true),
        (
            get(&format!("/v1/kv/a?{}", "a=b&".repeat(7000)), ""),
            vec![404],
            false,
        ),
        (
            long(40 << 10) + " / HTTP/1.1\r\nhost: localhost\r\n\r\n",
            vec![431],
            true,
        ),
        (endless_head, vec![431], true),
        // Chunk extensions are limited, too.
        (
            chunked(&format!("1;{}\r\n7\r\n0\r\n\r\n", long(40 << 10))),
            vec![400],
            true,
        ),
        (
            chunked(&format!("1\r\n7\r\n0\r\n{}\r\n", many(3000))),
            vec![400],
            true,
        ),
        (
            chunked(&format!("1\r\n7\r\n0\r\na: {}\r\n\r\n", long(1 << 20))),
            vec![400],
            true,
        ),
    ];
    for (bytes, statuses, closes) in &floods {
        let told = tell(victim.address(), bytes.as_bytes(), false).await;
        let head = &bytes[..bytes.len().min(60)];
        assert_eq!(
            told,
            (statuses.clone(), *closes),
            "{head:?} and {} bytes",
            bytes.len()
        );
    }
    // All at once, repeatedly.
    let rounds = (0..200).map(|at| {
        let bytes = floods[at % floods.len()].0.clone();
        let address = victim.address();
        tokio::spawn(async move { tell(address, bytes.as_bytes(), false).await })
    });
    for told in rounds.collect::<Vec<_>>() {
        told.await.expect("an answer or an end");
    }
    victim.must_be_unharmed(96).await;
}

#[tokio::test]
async fn values_that_are_made_to_hurt_are_refused_or_stored_as_they_are() {
    let victim = Victim::start(&[]).await;
    let mut connection = Connection::open(victim.address()).await;
    let bomb =
        |open: &str, close: &str, depth: usize| open.repeat(depth) + "1" + &close.repeat(depth);
    for bad in [
        bomb("[", "]", 129),
        bomb("[", "]", 500_000),
        "[".repeat(1 << 20),
        bomb("{\"a\":", "}", 129),
        "{\"a\":".repeat(200_000),
        "\"".to_owned() + &"\\".repeat(1 << 20),
        "-".repeat(1 << 20),
        "1e".to_owned(),
        "\u{feff}1".to_owned(),
    ] {
        let start = &bad[..bad.floor_char_boundary(20)];
        let reply = connection
            .ask(&request("PUT", "/v1/kv/bad").body(&*bad))
            .await;
        assert_eq!(reply.status, 422, "{start:?}");
        assert!(reply.body.len() < 1000, "{start:?} is echoed");
        let set = format!("{{\"key\":\"bad\",\"value\":{bad}}}");
        let reply = connection.ask(&request("POST", "/set").body(set)).await;
        assert_eq!(reply.status, 422, "{start:?}");
        assert!(reply.body.len() < 1000, "{start:?} is echoed");
    }
    assert_eq!(
        connection.ask(&request("GET", "/v1/kv/bad")).await.status,
        404
    );
    for good in [
        bomb("[", "]", 128),
        "9".repeat(1 << 20),
        format!("0.{}1", "0".repeat(1 << 19)),
        format!("1e{}", "9".repeat(1 << 19)),
        format!("-1E-{}", "9".repeat(1 << 19)),
        format!("\"{}\"", "\\u0000".repeat(100_000)),
        format!("[{}1]", "1,".repeat(500_000)),
        format!("{{{}\"a\":1}}", "\"a\":1,".repeat(150_000)),
    ] {
        let start = &good[..20];
        let reply = connection
            .ask(&request("PUT", "/v1/kv/good").body(&*good))
            .await;
        assert!([200, 201].contains(&reply.status), "{start:?}: {reply:?}");
        let read = connection.ask(&request("GET", "/v1/kv/good")).await;
        assert!(read.text() == good, "{start:?} has changed");
    }
    victim.must_be_unharmed(96).await;
}

/// Opens connections that remain open, after sending `bytes` on each.
async fn open(address: SocketAddr, count: usize, bytes: &[u8]) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let mut stream = TcpStream::connect(address)
            .await
            .expect("a server that listens");
        stream.write_all(bytes).await.expect("a server that reads");
        streams.push(stream);
    }
    streams
}

async fn metric(victim: &Victim, name: &str) -> u64 {
    let metrics = victim.ask("GET", "/metrics").await;
    let line = metrics
        .text()
        .lines()
        .find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().parse().ok())
        .expect("a figure")
}

/// Waits until the server has accepted `count` connections.
async fn until_open(victim: &Victim, count: usize) {
    let all = async {
        while metric(victim, "kvstore_http_connections ").await < count as u64 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all)
        .await
        .expect("all are served");
}

#[tokio::test]
async fn five_thousand_idle_connections_leave_room_for_those_that_work() {
    const COUNT: usize = 5000;
    // Both ends of each: this process' own, and the server's, which starts with the same limit.
    let limit = getrlimit(Resource::Nofile);
    let enough = Some(3 * COUNT as u64);
    assert!(
        limit.maximum.is_none_or(|most| Some(most) >= enough),
        "a process may have only {:?} files open: raise it with ulimit -Hn",
        limit.maximum
    );
    let raised = Rlimit {
        current: limit.current.max(enough),
        ..limit
    };
    setrlimit(Resource::Nofile, raised).expect("a limit below the hard one");
    // A connection without a request ends at the head timeout, and these must remain.
    let victim = Victim::start(&["--connections-max", "5100", "--head-timeout", "60s"]).await;
    let idle = open(victim.address(), COUNT, b"").await;
    until_open(&victim, COUNT).await;
    let mut used = open(
        victim.address(),
        20,
        b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
    )
    .await;
    for stream in &mut used {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
    for round in 0..50 {
        let reply = victim.ask("PUT", &format!("/v1/kv/{round}")).await;
        assert_eq!(reply.status, 201);
    }
    drop(idle);
    victim.must_be_unharmed(128).await;
}

#[tokio::test]
async fn those_who_send_and_read_slowly_take_little_and_are_given_up() {
    const EACH: usize = 150;
    /// The sockets of each reader hold several MiB of answers, and a debug build checks every byte
    /// of them.
    const READERS: usize = 40;
    let victim = Victim::start(&[
        "--head-timeout",
        "10s",
        "--body-timeout",
        "10s",
        "--write-timeout",
        "10s",
    ])
    .await;
    let large = request("PUT", "/v1/kv/large").body(format!("\"{}\"", "x".repeat((1 << 20) - 2)));
    let reply = Connection::open(victim.address()).await.ask(&large).await;
    assert_eq!(reply.status, 201);

    let heads = open(
        victim.address(),
        EACH,
        b"GET /livez HTTP/1.1\r\nhost: localhost\r\na: ",
    )
    .await;
    // Each announces the largest permitted body, and sends almost nothing.
    let body = b"PUT /v1/kv/slow HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1048576\r\n\r\n[";
    let bodies = open(victim.address(), EACH, body).await;
    // Each requests 64 MiB, and reads nothing.
    let reads = b"GET /v1/kv/large HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(64);
    let readers = open(victim.address(), READERS, &reads).await;
    until_open(&victim, 2 * EACH + READERS).await;
    for _ in 0..20 {
        assert_eq!(victim.ask("PUT", "/v1/kv/others").await.status / 100, 2);
        assert_eq!(victim.ask("GET", "/v1/kv/others").await.status, 200);
    }
    let none = async {
        // The request for this metric needs a connection, too.
        while metric(&victim, "kvstore_http_connections ").await > 1 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, none)
        .await
        .expect("all are given up");
    for (streams, status) in [(heads, None), (bodies, Some("408"))] {
        for mut stream in streams {
            let mut text = String::new();
            // A reset is an end, too.
            let _ = stream.read_to_string(&mut text).await;
            let found = text.strip_prefix("HTTP/1.1 ").map(|rest| &rest[..3]);
            assert_eq!(found, status, "{text}");
        }
    }
    drop(readers);
    assert_eq!(victim.ask("GET", "/v1/kv/slow").await.status, 404);
    victim.must_be_unharmed(64).await;
}
