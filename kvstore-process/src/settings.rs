//! Settings: one table defines them, and from it come the flags, the help, the environment
//! variables, the list of effective settings, and the line that reports each wrong value.
//!
//! The environment is passed in, so tests can supply values. clap only splits the command line;
//! values are checked here, because clap would stop at the first wrong one, and a deployment should
//! not have to be fixed one error at a time.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::parser::ValueSource;

/// The prefix of every environment variable of this project.
const PREFIX: &str = "KVSTORE_";

/// One setting of a program: a row of its table.
#[derive(Debug)]
pub struct Setting {
    /// The flag without its dashes, `admin-listen`. The name of its variable follows from it,
    /// `KVSTORE_ADMIN_LISTEN`.
    pub flag: &'static str,
    /// The kind of value, as the help shows it: `URL`. Empty for a switch, which is `true` or
    /// `false`. A suffix `,…` marks a list: values separated by commas, or the flag several times.
    /// A `URL` or a `SOURCE` may hold a password, so it is shown only once it is parsed.
    pub value: &'static str,
    /// What applies if it is not set.
    pub default: Fallback,
    /// The allowed values, as a noun: `an address with a port, such as 127.0.0.1:8000`.
    pub allowed: &'static str,
    /// Its purpose, in one sentence.
    pub help: &'static str,
}

/// What applies to a [`Setting`] that is not set.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// This value, written as a user would write it.
    Value(&'static str),
    /// No value; the text says what that means: `the store's own`.
    Absent(&'static str),
}

/// The name of a program and its settings in addition to [`SharedSettings`](super::SharedSettings).
#[derive(Debug)]
pub struct Program {
    /// The name of the binary.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Its purpose, in one sentence.
    pub about: &'static str,
    /// Its own settings.
    pub settings: &'static [Setting],
    /// The flags of other programs whose variables may be set as well, which is no mistake.
    pub others: &'static [&'static str],
    /// The headings of `--help`, each with the flag of the first setting below it.
    pub headings: &'static [(&'static str, &'static str)],
    /// The flags that `-h` shows, which fits on one screen.
    pub brief: &'static [&'static str],
}

impl Setting {
    /// Returns the name of its environment variable.
    pub fn variable(&self) -> String {
        variable(self.flag)
    }

    fn is_switch(&self) -> bool {
        self.value.is_empty()
    }

    fn may_be_secret(&self) -> bool {
        matches!(self.value, "URL" | "SOURCE")
    }
}

/// The settings as given, and the problems found in them.
pub struct Settings {
    found: Vec<FoundSetting>,
    problems: Vec<String>,
    warnings: Vec<String>,
    print: bool,
}

struct FoundSetting {
    setting: &'static Setting,
    /// `None` if it is not set and has no default.
    text: Option<String>,
    /// The form that may be shown, if that is not the text; `None` if it is not parsed.
    safe: Option<String>,
    origin: Origin,
}

#[derive(Clone, Copy)]
enum Origin {
    Flag,
    Environment,
    Default,
}

impl Settings {
    /// Parses `args` (the program's name first) and looks up the other settings in `variables`. A
    /// variable that is set but empty counts as not set: that is how a deployment file unsets it.
    ///
    /// # Errors
    /// clap's, for an unknown flag, and also for `--help` and `--version`.
    pub fn find(
        program: &Program,
        shared: &'static [Setting],
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, clap::Error> {
        let table = || shared.iter().chain(program.settings);
        let mut matches = command(program, table())
            .try_get_matches_from(args)
            .map_err(without_values)?;
        let mut variables: HashMap<String, OsString> = variables
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();

        let mut problems = Vec::new();
        let mut found = Vec::new();
        for setting in table() {
            let variable =
                variables
                    .remove(&setting.variable())
                    .and_then(|value| match value.into_string() {
                        Ok(text) => Some(text),
                        Err(_) => {
                            problems.push(problem(setting, None, "it is not UTF-8"));
                            None
                        }
                    });
            let (text, origin) = if let Some(text) = flag_value(&mut matches, setting) {
                (Some(text), Origin::Flag)
            } else if variable.is_some() {
                (variable, Origin::Environment)
            } else {
                let text = match setting.default {
                    Fallback::Value(text) => Some(text.to_owned()),
                    Fallback::Absent(_) => None,
                };
                (text, Origin::Default)
            };
            found.push(FoundSetting {
                setting,
                text,
                safe: None,
                origin,
            });
        }
        let others: Vec<_> = program.others.iter().copied().map(variable).collect();
        let mut warnings: Vec<String> = variables
            .into_keys()
            .filter(|name| !is_service_link(name) && !others.contains(name))
            .map(|name| format!("{name} is set, but {} has no such setting", program.name))
            .collect();
        warnings.sort();
        let print = matches.value_source(PRINT_CONFIG) == Some(ValueSource::CommandLine);
        Ok(Self {
            found,
            problems,
            warnings,
            print,
        })
    }

    /// Returns the value of a setting that has a default. Returns `None` if it is wrong: the
    /// problem is recorded, and checking continues.
    ///
    /// # Panics
    /// If `setting` is not in the program's table.
    pub fn get<T, E: Display>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.get_optional(setting, parse)?;
        if value.is_none() {
            self.refuse(setting, "it must be set");
        }
        value
    }

    /// Returns the value of an optional setting: `Some(None)` if it is absent, and `None` if it is
    /// wrong, as in [`Settings::get`].
    ///
    /// # Panics
    /// If `setting` is not in the program's table.
    pub fn get_optional<T, E: Display>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        let Some(text) = self.found(setting).text.as_deref() else {
            return Some(None);
        };
        match parse(text) {
            Ok(value) => Some(Some(value)),
            Err(reason) => {
                self.refuse(setting, reason);
                None
            }
        }
    }

    /// Returns the value of a `URL` or `SOURCE`, as in [`Settings::get`]. From then on its
    /// `Display` form is shown.
    ///
    /// # Panics
    /// If `setting` is not in the program's table.
    pub fn get_url<T: Display, E: Display>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.get(setting, parse)?;
        self.found_mut(setting).safe = Some(value.to_string());
        Some(value)
    }

    /// Returns the value of an optional `URL` or `SOURCE`, as in [`Settings::get_optional`].
    ///
    /// # Panics
    /// If `setting` is not in the program's table.
    pub fn get_optional_url<T: Display, E: Display>(
        &mut self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        let value = self.get_optional(setting, parse)?;
        self.found_mut(setting).safe = value.as_ref().map(ToString::to_string);
        Some(value)
    }

    /// Returns true if a switch is on. Returns `None` if its value is neither `true` nor `false`,
    /// as in [`Settings::get`].
    ///
    /// # Panics
    /// If `setting` is not in the program's table.
    pub fn switch(&mut self, setting: &Setting) -> Option<bool> {
        self.get(setting, |text| {
            text.parse::<bool>()
                .map_err(|_| "it is neither true nor false")
        })
    }

    /// Records that the value of `setting` cannot be used, possibly because of another setting.
    ///
    /// # Panics
    /// If `setting` is not in the program's table.
    pub fn refuse(&mut self, setting: &Setting, reason: impl Display) {
        let found = self.found(setting);
        let line = problem(setting, found.value(), reason);
        self.problems.push(line);
    }

    /// Returns all problems, one line each, in the order in which they were found.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Returns the variables that look like settings but are none, one line each: most likely
    /// misspelt.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Returns true if `--print-config` was given.
    pub fn wants_print(&self) -> bool {
        self.print
    }

    fn found(&self, setting: &Setting) -> &FoundSetting {
        &self.found[self.index(setting)]
    }

    fn found_mut(&mut self, setting: &Setting) -> &mut FoundSetting {
        let index = self.index(setting);
        &mut self.found[index]
    }

    fn index(&self, setting: &Setting) -> usize {
        self.found
            .iter()
            .position(|found| found.setting.flag == setting.flag)
            .unwrap_or_else(|| panic!("--{} is in the table of settings", setting.flag))
    }
}

/// Lists every effective setting, one per line: its flag, its value, and where that came from.
/// Secrets are hidden.
impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let flags = width(&mut self.found.iter().map(|found| found.setting.flag.len()));
        let values = width(&mut self.found.iter().map(|found| found.shown().chars().count()));
        for found in &self.found {
            writeln!(
                f,
                "--{:flags$}  {:values$}  {}",
                found.setting.flag,
                found.shown(),
                match found.origin {
                    Origin::Flag => "flag",
                    Origin::Environment => "environment",
                    Origin::Default => "default",
                }
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

impl FoundSetting {
    /// Returns the value in the form that may be shown.
    fn value(&self) -> Option<&str> {
        match self.setting.may_be_secret() {
            true => self.safe.as_deref(),
            false => self.text.as_deref(),
        }
    }

    fn shown(&self) -> String {
        match (&self.text, self.setting.default) {
            (Some(_), _) => self.value().unwrap_or("***").to_owned(),
            (None, Fallback::Absent(meaning)) => format!("({meaning})"),
            (None, Fallback::Value(text)) => text.to_owned(),
        }
    }
}

/// The flag that asks for the list instead of a run.
const PRINT_CONFIG: &str = "print-config";

/// The suffix of [`Setting::value`] that marks a list.
const LIST: &str = ",…";

/// Returns the value of `setting` on the command line. The values of a list are separated by
/// commas, however they were given.
fn flag_value(matches: &mut clap::ArgMatches, setting: &Setting) -> Option<String> {
    let values = matches.remove_many::<String>(setting.flag)?;
    Some(values.collect::<Vec<_>>().join(","))
}

fn command(program: &Program, table: impl Iterator<Item = &'static Setting>) -> clap::Command {
    let mut heading = None;
    let flag = |setting: &'static Setting| {
        let default = match setting.default {
            Fallback::Value(text) | Fallback::Absent(text) => text,
        };
        let begins = program
            .headings
            .iter()
            .find(|(_, flag)| *flag == setting.flag);
        heading = begins.map(|(heading, _)| *heading).or(heading);
        let arg = clap::Arg::new(setting.flag)
            .long(setting.flag)
            .help_heading(heading)
            .hide_short_help(!program.brief.contains(&setting.flag))
            .help(format!("{} [default: {default}]", setting.help))
            .long_help(format!(
                "{} [{}] [env: {}] [default: {default}]",
                setting.help,
                setting.allowed,
                setting.variable(),
            ));
        if setting.is_switch() {
            arg.value_name("BOOL")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        } else {
            let is_list = setting.value.ends_with(LIST);
            let arg = arg.value_name(setting.value);
            arg.action(match is_list {
                true => clap::ArgAction::Append,
                false => clap::ArgAction::Set,
            })
        }
    };
    clap::Command::new(program.name)
        .bin_name(program.name)
        .version(program.version)
        .about(program.about)
        .args(table.map(flag))
        .arg(
            clap::Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(clap::ArgAction::SetTrue)
                .hide_short_help(true)
                .help("Print every setting in force and where it came from, and exit"),
        )
}

/// Hides arguments that clap cannot place: they may be a URL, or a piece of one that a shell split.
/// Misspelt words and flags are shown.
fn without_values(mut error: clap::Error) -> clap::Error {
    use clap::error::{ContextKind, ContextValue};
    let is_misspelt = [ContextKind::SuggestedArg, ContextKind::SuggestedSubcommand]
        .iter()
        .any(|kind| error.get(*kind).is_some());
    let is_flag = |text: &str| {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
        text.starts_with("--") && text.bytes().all(letters)
    };
    for kind in [
        ContextKind::InvalidArg,
        ContextKind::InvalidSubcommand,
        ContextKind::InvalidValue,
    ] {
        let shown = match error.get(kind) {
            Some(ContextValue::String(text)) => text.split([' ', '=']).next().unwrap_or_default(),
            _ => continue,
        };
        if !is_misspelt && !is_flag(shown) {
            error.insert(kind, ContextValue::String("***".to_owned()));
        }
    }
    // Tips repeat the argument.
    error.remove(ContextKind::Suggested);
    error
}

/// Returns the name of the environment variable of a flag.
fn variable(flag: &str) -> String {
    format!("{PREFIX}{}", flag.to_uppercase().replace('-', "_"))
}

fn problem(setting: &Setting, text: Option<&str>, reason: impl Display) -> String {
    let value = text.map_or_else(|| ":".to_owned(), |text| format!(" is {text:?}:"));
    format!(
        "--{} ({}){value} {reason}; allowed: {}",
        setting.flag,
        setting.variable(),
        setting.allowed
    )
}

/// Returns true for a variable made by Kubernetes: for a service whose name starts with `kvstore`
/// it adds some to every pod of the namespace, so they are not misspelt settings.
///
/// Source: <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(name: &str) -> bool {
    name.ends_with("_PORT")
        || ["_PORT_", "_SERVICE_HOST", "_SERVICE_PORT"]
            .iter()
            .any(|part| name.contains(part))
}

/// Parses a duration: `500ms`, `30s`, `5m`, `24h`.
///
/// # Errors
/// For any other text, including a number without a unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| error.to_string())
}

/// Resolves a listening address: an address or host name with a port, `:8000` for every address of
/// this machine, or `8000` for its loopback address. Of several addresses of a name it takes the
/// first IPv4 one, or else the first.
///
/// # Errors
/// For any other text, and for a name without an address.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let port = |text: &str| text.parse::<u16>().ok();
    if let Some(port) = port(text) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Some(port) = text.strip_prefix(':').and_then(port) {
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    }
    let found = text.to_socket_addrs().map_err(|error| error.to_string())?;
    found
        .min_by_key(|address| !address.is_ipv4())
        .ok_or_else(|| "the name has no address".to_owned())
}

/// Combines a parser with a range check: `within(1..=60, str::parse)`.
pub fn within<T, E>(
    range: RangeInclusive<T>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> impl FnOnce(&str) -> Result<T, String>
where
    T: PartialOrd + fmt::Debug,
    E: Display,
{
    move |text| {
        let value = parse(text).map_err(|error| error.to_string())?;
        if range.contains(&value) {
            Ok(value)
        } else {
            Err(format!(
                "it is outside {:?} to {:?}",
                range.start(),
                range.end()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use kvstore_core::open::bytes;

    use super::*;

    #[test]
    fn address_is_a_host_with_a_port_or_a_port_alone() {
        for (text, expected) in [
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("[::1]:80", "[::1]:80"),
            ("localhost:80", "127.0.0.1:80"),
            (":80", "0.0.0.0:80"),
            ("80", "127.0.0.1:80"),
        ] {
            assert_eq!(address(text), Ok(expected.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            ":",
            "localhost",
            "::1",
            "65536",
            ":65536",
            "-1",
            "no.invalid:80",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    const LISTEN: Setting = Setting {
        flag: "listen-on",
        value: "ADDRESS",
        default: Fallback::Value("127.0.0.1:8000"),
        allowed: "an address with a port",
        help: "Where",
    };
    const SPEED: Setting = Setting {
        flag: "speed",
        value: "N",
        default: Fallback::Absent("as fast as it goes"),
        allowed: "1 to 9",
        help: "How fast",
    };
    const LOUD: Setting = Setting {
        flag: "loud",
        value: "",
        default: Fallback::Value("false"),
        allowed: "true or false",
        help: "How loud",
    };
    const PROGRAM: Program = Program {
        name: "test",
        version: "1",
        about: "Tests",
        settings: &[SPEED, LOUD],
        others: &[],
        headings: &[("Sound", "loud")],
        brief: &["speed"],
    };
    const SHARED: &[Setting] = &[LISTEN];

    fn find(args: &[&str], variables: &[(&str, &str)]) -> Settings {
        let args = std::iter::once("test").chain(args.iter().copied());
        let variables = variables
            .iter()
            .map(|(name, value)| (name.into(), value.into()));
        Settings::find(&PROGRAM, SHARED, args.map(OsString::from), variables).unwrap()
    }

    type Values = (
        Option<std::net::SocketAddr>,
        Option<Option<u8>>,
        Option<bool>,
    );

    fn read(settings: &mut Settings) -> Values {
        (
            settings.get(&LISTEN, str::parse),
            settings.get_optional(&SPEED, within(1..=9, str::parse::<u8>)),
            settings.switch(&LOUD),
        )
    }

    #[test]
    fn flag_goes_before_environment_and_that_before_default() {
        let address = |port: u16| Some(([127, 0, 0, 1], port).into());
        let mut settings = find(&[], &[]);
        assert_eq!(
            read(&mut settings),
            (address(8000), Some(None), Some(false))
        );
        let environment = [
            ("KVSTORE_LISTEN_ON", "127.0.0.1:1"),
            ("KVSTORE_SPEED", "2"),
            ("KVSTORE_LOUD", "true"),
        ];
        let mut settings = find(&[], &environment);
        assert_eq!(read(&mut settings), (address(1), Some(Some(2)), Some(true)));
        let flags = ["--listen-on=127.0.0.1:3", "--speed", "4", "--loud=false"];
        let mut settings = find(&flags, &environment);
        assert_eq!(
            read(&mut settings),
            (address(3), Some(Some(4)), Some(false))
        );
        assert_eq!(read(&mut find(&["--loud"], &[])).2, Some(true));
        assert!(settings.problems().is_empty() && settings.warnings().is_empty());
    }

    #[test]
    fn empty_variable_counts_as_not_set() {
        let mut settings = find(&[], &[("KVSTORE_SPEED", ""), ("KVSTORE_TYPO", "")]);
        assert_eq!(read(&mut settings).1, Some(None));
        assert!(settings.warnings().is_empty());
    }

    #[test]
    fn all_wrong_values_are_reported_each_in_a_line() {
        let mut settings = find(
            &["--speed", "10"],
            &[("KVSTORE_LISTEN_ON", "here"), ("KVSTORE_LOUD", "yes")],
        );
        assert_eq!(read(&mut settings), (None, None, None));
        assert_eq!(
            settings.problems(),
            [
                "--listen-on (KVSTORE_LISTEN_ON) is \"here\": invalid socket address syntax; allowed: an address with a port",
                "--speed (KVSTORE_SPEED) is \"10\": it is outside 1 to 9; allowed: 1 to 9",
                "--loud (KVSTORE_LOUD) is \"yes\": it is neither true nor false; allowed: true or false",
            ]
        );
    }

    #[test]
    fn value_that_spans_lines_is_reported_in_one() {
        let mut settings = find(&["--speed", "a\nb"], &[]);
        read(&mut settings);
        assert!(!settings.problems()[0].contains('\n'));
    }

    #[test]
    fn misspelt_variables_are_named_and_those_of_kubernetes_are_not() {
        let settings = find(
            &[],
            &[
                ("KVSTORE_SPED", "1"),
                ("KVSTORE_PORT", "tcp://10.0.0.1:80"),
                ("KVSTORE_PORT_80_TCP_ADDR", "10.0.0.1"),
                ("KVSTORE_HTTP_SERVICE_HOST", "10.0.0.1"),
                ("KVSTORE_HTTP_SERVICE_PORT_WEB", "80"),
                ("PATH", "/bin"),
            ],
        );
        assert_eq!(
            settings.warnings(),
            ["KVSTORE_SPED is set, but test has no such setting"]
        );
    }

    #[cfg(unix)]
    #[test]
    fn variable_that_is_not_text_is_reported() {
        use std::os::unix::ffi::OsStringExt;
        let variables = [("KVSTORE_SPEED".into(), OsString::from_vec(vec![0xff]))];
        let settings = Settings::find(&PROGRAM, SHARED, ["test".into()], variables).unwrap();
        assert_eq!(
            settings.problems(),
            ["--speed (KVSTORE_SPEED): it is not UTF-8; allowed: 1 to 9"]
        );
    }

    #[test]
    fn printed_settings_say_where_they_come_from() {
        let settings = find(&["--loud"], &[("KVSTORE_LISTEN_ON", "a:1")]);
        assert_eq!(
            settings.to_string(),
            "--listen-on  a:1                   environment\n\
             --speed      (as fast as it goes)  default\n\
             --loud       true                  flag\n"
        );
    }

    #[test]
    fn help_names_flag_variable_default_and_what_is_allowed() {
        let help = command(&PROGRAM, SHARED.iter().chain(PROGRAM.settings))
            .render_long_help()
            .to_string();
        for part in [
            "--listen-on <ADDRESS>",
            "[env: KVSTORE_LISTEN_ON]",
            "[default: 127.0.0.1:8000]",
            "[an address with a port]",
            "--print-config",
        ] {
            assert!(help.contains(part), "{part} is missing in:\n{help}");
        }
        assert!(help.contains("\nSound:\n      --loud"), "{help}");
        let brief = command(&PROGRAM, SHARED.iter().chain(PROGRAM.settings));
        let brief = brief.clone().render_help().to_string();
        assert!(
            brief.contains("--speed") && !brief.contains("--loud"),
            "{brief}"
        );
    }

    #[test]
    fn durations_and_sizes_have_units() {
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert!(duration("30").is_err());
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert!(bytes("64k").is_err());
        let seconds = within(Duration::from_secs(1)..=Duration::from_secs(60), duration);
        assert_eq!(seconds("2m"), Err("it is outside 1s to 60s".to_owned()));
    }
}
