//! The server's settings: the table of flags and variables, and their parsing.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kvstore_core::limits::{self, BATCH_OPERATIONS_MAX, PAGE_ENTRIES_MAX};
use kvstore_core::service::ServiceOptions;
use kvstore_http::{Cors, Endpoint, Hosts, Options, Tls, Tokens};
use kvstore_process::{
    Fallback, Program, Setting, Settings, SharedSettings, bytes, duration, within,
};

/// The program with all settings of its own.
pub(crate) const PROGRAM: Program = Program {
    name: "kvstore-http",
    version: env!("CARGO_PKG_VERSION"),
    about: "Serves a JSON key-value store over HTTP, until SIGTERM; the command `kvstore` reads, writes and looks after it",
    settings: &[
        LISTEN,
        SOCKET_MODE,
        TLS_CERT,
        TLS_KEY,
        WORKER,
        TOKENS_FILE,
        ALLOW_UNAUTHENTICATED,
        CORS_ORIGIN,
        ALLOW_HOST,
        KEY_CHARS_MAX,
        VALUE_BYTES_MAX,
        BATCH_MAX,
        MGET_MAX,
        PAGE_MAX,
        BODY_BYTES_MAX,
        HEAD_BYTES_MAX,
        HEADERS_MAX,
        CONNECTIONS_MAX,
        WATCHERS_MAX,
        IN_FLIGHT_BYTES_MAX,
        RESOURCE_WAIT,
        SIMPLE_WAIT,
        WAIT_MAX,
        VISIBLE_WAIT,
        IDEMPOTENCY_WINDOW,
        IDEMPOTENCY_MINIMUM,
        HEAD_TIMEOUT,
        BODY_TIMEOUT,
        REQUEST_TIMEOUT,
        WRITE_TIMEOUT,
        IDLE_TIMEOUT,
        WATCH_HEARTBEAT,
        DRAIN_DELAY,
        DRAIN_TIMEOUT,
    ],
    others: &["attempts-max", "adopt-queue", "accept-gap"],
    headings: &[
        ("Access", TOKENS_FILE.flag),
        ("Limits", KEY_CHARS_MAX.flag),
        ("Waiting", RESOURCE_WAIT.flag),
        ("Timeouts", HEAD_TIMEOUT.flag),
    ],
    brief: &["store", "listen", "worker", "tokens-file", "log"],
};

const LISTEN: Setting = Setting {
    flag: "listen",
    value: "ADDRESS,…",
    default: Fallback::Value("127.0.0.1:8000"),
    allowed: "unix:/path/to/socket, or an address or a host with a port, such as 127.0.0.1:8000 or localhost:8000, :8000 for every address, or 8000 for this machine alone; off this machine only with --tokens-file or --allow-unauthenticated",
    help: "Where to serve HTTP, in several places at once",
};

const SOCKET_MODE: Setting = Setting {
    flag: "socket-mode",
    value: "MODE",
    default: Fallback::Value("600"),
    allowed: "permissions as chmod takes them, in octal: 600 for the user alone, 660 for the group, 666 for everybody",
    help: "Who may use the Unix sockets of --listen",
};

const TLS_CERT: Setting = Setting {
    flag: "tls-cert",
    value: "PATH",
    default: Fallback::Absent("none: plain HTTP"),
    allowed: "a PEM file with the server's certificate and those between it and its authority, together with --tls-key; probes then ask --admin-listen or a Unix socket",
    help: "Speak TLS on the addresses of --listen; read again as the tokens are",
};

const TLS_KEY: Setting = Setting {
    flag: "tls-key",
    value: "PATH",
    default: Fallback::Absent("none"),
    allowed: "a PEM file, together with --tls-cert",
    help: "The private key of that certificate",
};

const WORKER: Setting = Setting {
    flag: "worker",
    value: "WHERE",
    default: Fallback::Value("embedded"),
    allowed: "embedded or none",
    help: "Whether a worker runs inside the server and applies what it accepts; none on Redis: leave that to workers elsewhere; none on a folder: read what another process writes, and accept writes only into a queue on Redis",
};

const TOKENS_FILE: Setting = Setting {
    flag: "tokens-file",
    value: "PATH",
    default: Fallback::Absent("none: everybody may read and write"),
    allowed: "a file with lines NAME:SHA256:rw or NAME:SHA256:r, and :PREFIX behind that for some keys only",
    help: "Who may do what, by bearer tokens; read at the start, when the file changes and on SIGHUP",
};

const CORS_ORIGIN: Setting = Setting {
    flag: "cors-origin",
    value: "ORIGIN,…",
    default: Fallback::Absent("none"),
    allowed: "origins with commas between them, such as https://app.example, or * for any",
    help: "Which web pages of other origins may use the service in a browser",
};

const ALLOW_HOST: Setting = Setting {
    flag: "allow-host",
    value: "NAME,…",
    default: Fallback::Absent(
        "none: on a loopback address without tokens, only requests for this machine are served",
    ),
    allowed: "names of hosts with commas between them, such as kv.example; with any, requests for others are refused on every address",
    help: "Names that requests may ask for besides those of this machine",
};

const ALLOW_UNAUTHENTICATED: Setting = Setting {
    flag: "allow-unauthenticated",
    value: "",
    default: Fallback::Value("false"),
    allowed: "true or false",
    help: "Listen on addresses that other machines reach without a tokens file: any client that reaches them may read and write everything",
};

const KEY_CHARS_MAX: Setting = Setting {
    allowed: "a number from 1 to 512",
    ..count(
        "key-chars-max",
        "512",
        "Longest key that a write may name, in characters",
    )
};
const BATCH_MAX: Setting = Setting {
    allowed: "a number from 1 to 1000",
    ..count("batch-max", "1000", "Most operations of a batch")
};
const MGET_MAX: Setting = Setting {
    allowed: "a number from 1 to 1000",
    ..count("mget-max", "1000", "Most keys of an mget")
};
const PAGE_MAX: Setting = Setting {
    allowed: "a number from 1 to 1000",
    ..count(
        "page-max",
        "1000",
        "Most items on a page; a request for more gets this many",
    )
};
const VALUE_BYTES_MAX: Setting = size(
    "value-bytes-max",
    Fallback::Value("1MiB"),
    "Largest value, without white space",
);
const BODY_BYTES_MAX: Setting = size(
    "body-bytes-max",
    Fallback::Absent("the largest value and 64KiB around it"),
    "Largest body of a request; more is answered 413",
);
const HEAD_BYTES_MAX: Setting = Setting {
    allowed: "a number of bytes from 1KiB to 256KiB",
    ..size(
        "head-bytes-max",
        Fallback::Value("32KiB"),
        "Largest head of a request; more is answered 431",
    )
};
const HEADERS_MAX: Setting = count(
    "headers-max",
    "100",
    "Most header lines of a request; more are answered 431",
);
const CONNECTIONS_MAX: Setting = count(
    "connections-max",
    "800",
    "Most connections at a time; one more is answered 503",
);

const WATCHERS_MAX: Setting = count(
    "watchers-max",
    "400",
    "Most clients that wait for changes at a time; one more is answered 503",
);

const IN_FLIGHT_BYTES_MAX: Setting = Setting {
    allowed: "a number of bytes from 1 to 1TiB, such as 268435456 or 256MiB",
    ..size(
        "in-flight-bytes-max",
        Fallback::Absent("a quarter of the machine's or container's memory"),
        "Most bytes of bodies, pages and events under way, together; more are answered 503",
    )
};

const RESOURCE_WAIT: Setting = span(
    "resource-wait",
    "5s",
    "How long PUT and DELETE on /v1 wait for the write, unless told",
);
const SIMPLE_WAIT: Setting = span(
    "simple-wait",
    "0s",
    "How long /set and /delete wait for the write, unless told",
);
const WAIT_MAX: Setting = span(
    "wait-max",
    "60s",
    "The longest wait that a client gets, whatever it asks for",
);
const VISIBLE_WAIT: Setting = span(
    "visible-wait",
    "5s",
    "How long a read waits for the write of its sync token",
);
const IDEMPOTENCY_WINDOW: Setting = span(
    "idempotency-window",
    "24h",
    "How long an idempotency key is remembered",
);
const IDEMPOTENCY_MINIMUM: Setting = span(
    "idempotency-minimum",
    "1h",
    "How long a key is guaranteed to be remembered; after that it may make room for others",
);
const HEAD_TIMEOUT: Setting = span(
    "head-timeout",
    "10s",
    "How long the head of a request may take; then the connection is closed",
);
const BODY_TIMEOUT: Setting = span(
    "body-timeout",
    "30s",
    "How long the body of a request may take; more is answered 408",
);
const REQUEST_TIMEOUT: Setting = Setting {
    allowed: "a duration longer than the longest wait and body-timeout together",
    ..span(
        "request-timeout",
        "120s",
        "How long a request may take in all",
    )
};
const WRITE_TIMEOUT: Setting = span(
    "write-timeout",
    "30s",
    "How long a client may take nothing of its answer, or less than 1KiB a second; then the connection is closed",
);
const IDLE_TIMEOUT: Setting = span(
    "idle-timeout",
    "75s",
    "How long a connection may be open without a request",
);
const WATCH_HEARTBEAT: Setting = span(
    "watch-heartbeat",
    "15s",
    "After how long without a change a watcher is sent a sign of life",
);
const DRAIN_DELAY: Setting = span(
    "drain-delay",
    "0s",
    "How long to continue serving, but not ready, after the signal to stop",
);
const DRAIN_TIMEOUT: Setting = span(
    "drain-timeout",
    "30s",
    "How long requests under way then have to finish",
);

const fn span(flag: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting {
        flag,
        value: "DURATION",
        default: Fallback::Value(default),
        allowed: "a duration up to 30days, such as 500ms, 30s or 5m",
        help,
    }
}

const fn size(flag: &'static str, default: Fallback, help: &'static str) -> Setting {
    Setting {
        flag,
        value: "BYTES",
        default,
        allowed: "a number of bytes from 1 to 64MiB, such as 65536, 64KiB or 1MiB",
        help,
    }
}

const fn count(flag: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting {
        flag,
        value: "N",
        default: Fallback::Value(default),
        allowed: "a number from 1 to 1000000",
        help,
    }
}

/// Limits waits to a time that is safe to add up.
const SPANS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(30 * 24 * 60 * 60);

/// A timeout of zero would let nothing pass.
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(1)..=*SPANS.end();

/// Limits the memory for each connection, and the size of a job in a queue.
const SIZES: RangeInclusive<u64> = 1..=64 << 20;

const IN_FLIGHT: RangeInclusive<u64> = 1..=1 << 40;

const HEAD_SIZES: RangeInclusive<u64> = 1 << 10..=256 << 10;

const COUNTS: RangeInclusive<usize> = 1..=1_000_000;

/// The server's relation to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Runs a worker in this process.
    Worker,
    /// Leaves accepted writes to a worker elsewhere.
    Acceptor,
    /// Reads a folder that another process writes, and accepts writes only if the folder's queue is
    /// on Redis.
    Reader,
}

impl Role {
    /// Returns the value of `--worker`.
    pub(crate) fn worker(self) -> &'static str {
        match self {
            Self::Worker => "embedded",
            Self::Acceptor | Self::Reader => "none",
        }
    }
}

/// The server's settings, validated.
#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) listen: Vec<Endpoint>,
    /// The permissions of Unix sockets in `listen`.
    pub(crate) socket_mode: u32,
    /// The certificate for TCP addresses in `listen`.
    pub(crate) tls: Option<Arc<Tls>>,
    pub(crate) role: Role,
    /// The file that the tokens in `options` come from.
    pub(crate) tokens_file: Option<PathBuf>,
    pub(crate) service: ServiceOptions,
    pub(crate) options: Options,
}

/// Reads the settings. All of them are parsed before any error returns, so that every wrong value
/// is reported.
pub(crate) fn read(settings: &mut Settings, shared: Option<&SharedSettings>) -> Option<Own> {
    let tokens = settings.get_optional(&TOKENS_FILE, |path| {
        read_tokens(path.as_ref()).map(|tokens| (PathBuf::from(path), tokens))
    });
    let listen = read_listen(settings, !matches!(tokens, Some(None)));
    let socket_mode = settings.get(&SOCKET_MODE, mode);
    let tls = read_tls(settings);
    let cors = settings.get_optional(&CORS_ORIGIN, Cors::parse);
    let hosts = settings.get_optional(&ALLOW_HOST, Hosts::parse);
    let role = read_role(settings, shared);
    let service = read_service(settings);
    let options = read_options(settings);
    let (tokens_file, tokens) = tokens?.unzip();
    let store_bounds = match (role?, shared?) {
        // The process that writes the folder has bounds that this one does not know.
        (Role::Reader, _) => Vec::new(),
        (_, shared) => shared.store.bounds(shared.queue.as_ref()),
    };
    Some(Own {
        listen: listen?,
        socket_mode: socket_mode?,
        tls: tls?.map(Arc::new),
        tokens_file,
        role: role?,
        service: service?,
        options: Options {
            // If they have an address of their own, they are only there.
            admin_routes: shared?.admin_listen.is_none(),
            tokens: tokens.map(Arc::new),
            cors: cors?.unwrap_or_default(),
            hosts: hosts?.unwrap_or_default(),
            store_bounds,
            ..options?
        },
    })
}

/// Reads a file of tokens.
///
/// # Errors
/// Lists all problems, in one line.
pub(crate) fn read_tokens(path: &Path) -> Result<Tokens, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    Tokens::parse(&text).map_err(|problems| problems.join("; "))
}

fn read_listen(settings: &mut Settings, has_tokens: bool) -> Option<Vec<Endpoint>> {
    let listen = settings.get(&LISTEN, endpoints);
    let is_allowed = settings.switch(&ALLOW_UNAUTHENTICATED);
    let (listen, is_allowed) = (listen?, is_allowed?);
    if let Some(open) = listen.iter().find(|endpoint| !endpoint.is_local())
        && !has_tokens
        && !is_allowed
    {
        settings.refuse(
            &LISTEN,
            format!(
                "other machines reach {open}, and they could read and write everything without a token"
            ),
        );
        return None;
    }
    Some(listen)
}

/// Parses a comma-separated list of endpoints.
///
/// # Errors
/// Names the first invalid one.
pub(crate) fn endpoints(text: &str) -> Result<Vec<Endpoint>, String> {
    let endpoint = |text: &str| {
        let text = text.trim();
        Endpoint::parse(text).map_err(|reason| format!("{text:?}: {reason}"))
    };
    text.split(',').map(endpoint).collect()
}

/// Reads the certificate and the key, if TLS is configured.
fn read_tls(settings: &mut Settings) -> Option<Option<Tls>> {
    let path = |text: &str| Ok::<_, String>(PathBuf::from(text));
    let certificate = settings.get_optional(&TLS_CERT, path);
    let key = settings.get_optional(&TLS_KEY, path);
    match (certificate?, key?) {
        (None, None) => Some(None),
        (Some(certificate), Some(key)) => match Tls::read(certificate, key) {
            Ok(tls) => Some(Some(tls)),
            Err(reason) => {
                settings.refuse(&TLS_CERT, reason);
                None
            }
        },
        (Some(_), None) => {
            settings.refuse(&TLS_CERT, "--tls-key is missing");
            None
        }
        (None, Some(_)) => {
            settings.refuse(&TLS_KEY, "--tls-cert is missing");
            None
        }
    }
}

/// Parses permissions in octal.
fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        Ok(_) => Err("it is more than 777".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn read_role(settings: &mut Settings, shared: Option<&SharedSettings>) -> Option<Role> {
    let wanted = settings.get(&WORKER, |text| match text {
        "embedded" => Ok(true),
        "none" => Ok(false),
        _ => Err("it is neither of the two"),
    });
    let shared = shared?;
    match wanted? {
        true => Some(Role::Worker),
        false if shared.store.is_shared() => Some(Role::Acceptor),
        // A single process writes to such a store, and it runs the worker.
        false => match shared.store.folder_to_follow() {
            Ok(_) => Some(Role::Reader),
            Err(error) => {
                settings.refuse(&WORKER, error);
                None
            }
        },
    }
}

fn read_service(settings: &mut Settings) -> Option<ServiceOptions> {
    let key_chars_max = settings.get(
        &KEY_CHARS_MAX,
        within(1..=limits::KEY_CHARS_MAX, str::parse),
    );
    let value_bytes_max = settings.get(&VALUE_BYTES_MAX, within(SIZES, bytes));
    let batch_max = settings.get(&BATCH_MAX, within(1..=BATCH_OPERATIONS_MAX, str::parse));
    let visible_wait = settings.get(&VISIBLE_WAIT, within(SPANS, duration));
    let idempotency_window = settings.get(&IDEMPOTENCY_WINDOW, within(TIMEOUTS, duration));
    let idempotency_minimum = settings.get(&IDEMPOTENCY_MINIMUM, within(SPANS, duration));
    Some(ServiceOptions {
        key_chars_max: key_chars_max?,
        value_bytes_max: usize::try_from(value_bytes_max?).ok()?,
        batch_operations_max: batch_max?,
        idempotency_window: idempotency_window?,
        idempotency_minimum: idempotency_minimum?,
        visible_wait: visible_wait?,
    })
}

fn read_options(settings: &mut Settings) -> Option<Options> {
    let body_bytes_max = settings.get_optional(&BODY_BYTES_MAX, within(SIZES, bytes));
    let mget_max = settings.get(&MGET_MAX, within(1..=PAGE_ENTRIES_MAX, str::parse));
    let page_max = settings.get(&PAGE_MAX, within(1..=PAGE_ENTRIES_MAX, str::parse));
    let head_bytes_max = settings.get(&HEAD_BYTES_MAX, within(HEAD_SIZES, bytes));
    let headers_max = settings.get(&HEADERS_MAX, within(COUNTS, str::parse));
    let connections_max = settings.get(&CONNECTIONS_MAX, within(COUNTS, str::parse));
    let watchers_max = settings.get(&WATCHERS_MAX, within(COUNTS, str::parse));
    let in_flight = settings.get_optional(&IN_FLIGHT_BYTES_MAX, within(IN_FLIGHT, bytes));
    let resource_wait = settings.get(&RESOURCE_WAIT, within(SPANS, duration));
    let simple_wait = settings.get(&SIMPLE_WAIT, within(SPANS, duration));
    let wait_max = settings.get(&WAIT_MAX, within(SPANS, duration));
    let head_timeout = settings.get(&HEAD_TIMEOUT, within(TIMEOUTS, duration));
    let body_timeout = settings.get(&BODY_TIMEOUT, within(TIMEOUTS, duration));
    let request_timeout = settings.get(&REQUEST_TIMEOUT, within(TIMEOUTS, duration));
    let write_timeout = settings.get(&WRITE_TIMEOUT, within(TIMEOUTS, duration));
    let idle_timeout = settings.get(&IDLE_TIMEOUT, within(TIMEOUTS, duration));
    let watch_heartbeat = settings.get(&WATCH_HEARTBEAT, within(TIMEOUTS, duration));
    let drain_delay = settings.get(&DRAIN_DELAY, within(SPANS, duration));
    let drain_timeout = settings.get(&DRAIN_TIMEOUT, within(SPANS, duration));
    let options = Options {
        resource_wait: resource_wait?,
        simple_wait: simple_wait?,
        wait_max: wait_max?,
        body_bytes_max: body_bytes_max?.map(usize::try_from).transpose().ok()?,
        mget_keys_max: mget_max?,
        page_items_max: page_max?,
        head_bytes_max: usize::try_from(head_bytes_max?).ok()?,
        headers_max: headers_max?,
        head_timeout: head_timeout?,
        body_timeout: body_timeout?,
        request_timeout: request_timeout?,
        write_timeout: write_timeout?,
        idle_timeout: idle_timeout?,
        connections_max: connections_max?,
        watchers_max: watchers_max?,
        in_flight_bytes_max: in_flight?.map(usize::try_from).transpose().ok()?,
        store_bounds: Vec::new(),
        watch_heartbeat: watch_heartbeat?,
        drain_delay: drain_delay?,
        drain_timeout: drain_timeout?,
        admin_routes: true,
        tokens: None,
        hosts: Hosts::default(),
        cors: Cors::default(),
    };
    if let Err(reason) = options.check() {
        settings.refuse(&REQUEST_TIMEOUT, reason);
        return None;
    }
    Some(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> Settings {
        let args = std::iter::once("kvstore-http").chain(args.iter().copied());
        Settings::find(&PROGRAM, &[], args.map(Into::into), []).unwrap()
    }

    fn problem(args: &[&str], read: impl FnOnce(&mut Settings) -> bool) -> String {
        let mut settings = settings(args);
        assert!(!read(&mut settings), "{args:?} is accepted");
        let [problem] = settings.problems() else {
            panic!("{:?}", settings.problems());
        };
        problem.clone()
    }

    #[test]
    fn defaults_are_those_of_the_library() {
        let mut settings = settings(&[]);
        let options = read_options(&mut settings).unwrap();
        assert_eq!(format!("{options:?}"), format!("{:?}", Options::default()));
        let service = read_service(&mut settings).unwrap();
        assert_eq!(
            format!("{service:?}"),
            format!("{:?}", ServiceOptions::default())
        );
        assert_eq!(
            read_listen(&mut settings, false),
            endpoints("127.0.0.1:8000").ok()
        );
        assert_eq!(settings.problems(), &[] as &[String]);
    }

    #[test]
    fn address_that_others_reach_has_to_be_allowed() {
        for address in [
            "0.0.0.0:1",
            "[::]:1",
            "192.0.2.1:1",
            "[2001:db8::1]:1",
            ":1",
        ] {
            let problem = problem(&["--listen", address], |settings| {
                read_listen(settings, false).is_some()
            });
            assert!(problem.contains("--allow-unauthenticated"), "{problem}");
            let mut allowed = settings(&["--listen", address, "--allow-unauthenticated"]);
            assert_eq!(read_listen(&mut allowed, false), endpoints(address).ok());
            let mut guarded = settings(&["--listen", address]);
            assert_eq!(read_listen(&mut guarded, true), endpoints(address).ok());
        }
        for address in [
            "127.0.0.1:1",
            "127.1.2.3:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
            "localhost:1",
            "1",
            "unix:/run/kv.sock",
            "unix:kv.sock, [::1]:1",
        ] {
            assert!(
                read_listen(&mut settings(&["--listen", address]), false).is_some(),
                "{address}"
            );
        }
    }

    #[test]
    fn times_that_contradict_each_other_are_refused() {
        let problem = problem(&["--request-timeout", "90s"], |settings| {
            read_options(settings).is_some()
        });
        assert!(
            problem.contains("--request-timeout") && problem.contains("90s"),
            "{problem}"
        );
        assert!(read_options(&mut settings(&["--request-timeout", "91s"])).is_some());
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        for args in [
            ["--connections-max", "0"],
            ["--headers-max", "many"],
            ["--head-bytes-max", "1"],
            ["--body-bytes-max", "1GiB"],
            ["--body-timeout", "0s"],
            ["--drain-timeout", "31days"],
            ["--wait-max", "5"],
        ] {
            let problem = problem(&args, |settings| read_options(settings).is_some());
            assert!(problem.starts_with(args[0]), "{problem}");
        }
    }
}
