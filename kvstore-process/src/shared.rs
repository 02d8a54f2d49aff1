//! The settings that every binary has.

use std::net::SocketAddr;

use kvstore_core::error::{Error, Result};
use kvstore_core::open::{self, Followed, Opened, StoreUrl};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::settings::{Fallback, Setting, Settings, address};

/// `--store`, public for programs that reject some stores.
pub const STORE: Setting = Setting {
    flag: "store",
    value: "URL",
    default: Fallback::Value("file:database"),
    allowed: "file:FOLDER, redis://HOST, redis+unix:///SOCKET, redis+cluster://HOST,HOST or memory:, with parameters as in file:database?data_bytes=2GiB",
    help: "Where the entries are stored",
};

const QUEUE: Setting = Setting {
    flag: "queue",
    value: "URL",
    default: Fallback::Absent("the store's own"),
    allowed: "the same URL as the store's, or redis://HOST for a store in files",
    help: "Where writes wait until they are applied",
};

const LOG: Setting = Setting {
    flag: "log",
    value: "LEVEL",
    default: Fallback::Value("info"),
    allowed: "error, warn, info, debug, trace or off, also by module, as in info,kvstore_core::worker=debug",
    help: "What to log",
};

const LOG_FORMAT: Setting = Setting {
    flag: "log-format",
    value: "FORMAT",
    default: Fallback::Value("text"),
    allowed: "text or json",
    help: "How to log: lines for people, or one JSON object per line",
};

const ADMIN_LISTEN: Setting = Setting {
    flag: "admin-listen",
    value: "ADDRESS",
    default: Fallback::Absent("none"),
    allowed: "an address or a host with a port, such as 127.0.0.1:9000, :9000 for every address, or 9000 for this machine alone",
    help: "Where to serve /livez, /readyz and /metrics apart from everything else",
};

/// The rows of the table before a program's own.
pub(super) const SETTINGS: &[Setting] = &[STORE, QUEUE, LOG, LOG_FORMAT, ADMIN_LISTEN];

/// The settings that every binary has, checked.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// `--store`.
    pub store: StoreUrl,
    /// `--queue`; `None` for the store's own queue.
    pub queue: Option<StoreUrl>,
    /// `--log`: a filter in the syntax of `tracing-subscriber`.
    pub log: String,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `--admin-listen`.
    pub admin_listen: Option<SocketAddr>,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line, for machines.
    Json,
}

impl SharedSettings {
    /// Opens the store and the queue. `retry` decides whether to wait after a transient error.
    ///
    /// # Errors
    /// Those of [`stand_by`](kvstore_core::open::stand_by).
    pub async fn open(&self, retry: impl FnMut(&Error) -> bool + Send) -> Result<Opened> {
        open::stand_by(&self.store, self.queue.as_ref(), retry).await
    }

    /// Opens the store for reading while another process writes it. `retry` decides as in
    /// [`SharedSettings::open`].
    ///
    /// # Errors
    /// Those of [`follow_when_reached`](kvstore_core::open::follow_when_reached).
    pub async fn follow(&self, retry: impl FnMut(&Error) -> bool + Send) -> Result<Followed> {
        open::follow_when_reached(&self.store, self.queue.as_ref(), retry).await
    }

    pub(super) fn read(settings: &mut Settings) -> Option<Self> {
        let store = settings.get_url(&STORE, str::parse::<StoreUrl>);
        let queue = settings.get_optional_url(&QUEUE, str::parse::<StoreUrl>);
        if let (Some(store), Some(Some(queue))) = (&store, &queue)
            && let Err(error) = store.check_queue(queue)
        {
            settings.refuse(&QUEUE, error);
        }
        let log = settings.get(&LOG, |text| log_filter(text).map(|()| text.to_owned()));
        let log_format = settings.get(&LOG_FORMAT, |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("it is neither of the two formats"),
        });
        let admin_listen = settings.get_optional(&ADMIN_LISTEN, address);
        Some(Self {
            store: store?,
            queue: queue?,
            log: log?,
            log_format: log_format?,
            admin_listen: admin_listen?,
        })
    }
}

/// Checks a filter more strictly than its own parser, which takes a misspelt level, `inof`, for the
/// name of a module.
fn log_filter(text: &str) -> Result<(), String> {
    EnvFilter::builder()
        .parse(text)
        .map_err(|error| error.to_string())?;
    let misspelt = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.contains(['=', '[', ']', '{', '}']))
        .find(|part| part.parse::<LevelFilter>().is_err());
    match misspelt {
        None => Ok(()),
        Some(part) => Err(format!("{part:?} is not a level")),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::Program;

    const PROGRAM: Program = Program {
        name: "test",
        version: "1",
        about: "Tests",
        others: &[],
        headings: &[],
        brief: &[],
        settings: &[],
    };

    fn read(variables: &[(&str, &str)]) -> (Option<SharedSettings>, Vec<String>) {
        let variables = variables
            .iter()
            .map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let mut settings = Settings::find(&PROGRAM, SETTINGS, ["test".into()], variables).unwrap();
        let shared = SharedSettings::read(&mut settings);
        (shared, settings.problems().to_vec())
    }

    #[test]
    fn defaults_run() {
        let (shared, problems) = read(&[]);
        let shared = shared.unwrap();
        assert_eq!(problems, [""; 0]);
        assert_eq!(
            (shared.store.to_string().as_str(), shared.queue),
            ("file:database", None)
        );
        assert_eq!(
            (shared.log.as_str(), shared.log_format),
            ("info", LogFormat::Text)
        );
        assert_eq!(shared.admin_listen, None);
    }

    #[test]
    fn every_problem_is_reported() {
        let (shared, problems) = read(&[
            ("KVSTORE_STORE", "redis://user:hunter2@host:x"),
            ("KVSTORE_QUEUE", "file:x"),
            ("KVSTORE_LOG", "inof"),
            ("KVSTORE_LOG_FORMAT", "xml"),
            ("KVSTORE_ADMIN_LISTEN", "nowhere"),
        ]);
        assert!(shared.is_none());
        let flags: Vec<_> = problems
            .iter()
            .map(|line| line.split_once(' ').unwrap().0)
            .collect();
        assert_eq!(
            flags,
            ["--store", "--log", "--log-format", "--admin-listen"]
        );
        assert!(!problems.concat().contains("hunter2"), "{problems:?}");
    }

    #[test]
    fn queue_must_match_the_store() {
        assert_eq!(read(&[("KVSTORE_QUEUE", "file:database")]).1, [""; 0]);
        let (_, problems) = read(&[("KVSTORE_QUEUE", "memory:")]);
        assert!(
            problems[0].starts_with("--queue (KVSTORE_QUEUE) is"),
            "{problems:?}"
        );
        assert_eq!(problems.len(), 1);
    }

    #[test]
    fn log_filter_accepts_levels_and_modules_but_no_misspelt_level() {
        for good in [
            "info",
            "WARN",
            "off",
            "info,kvstore_core::worker=debug",
            "warn,hyper=off",
            "[{job}]=trace",
        ] {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["inof", "kvstore_core=loud", "info;debug"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }
}
