//! `token`: makes a token, for somebody to use, and its line for the file that `--tokens-file` names.

use std::io::Write as _;
use std::process::ExitCode;

use kvstore_core::process::{self, Failure, Fallback, Program, Setting, Settings};
use kvstore_http::token_line;
use rand::TryRngCore as _;
use rand::rngs::OsRng;

use super::print;

const NAME: Setting = Setting {
    flag: "name",
    value: "NAME",
    default: Fallback::Absent("none: it has to be given"),
    allowed: "1 to 64 letters, digits, dots, dashes and underscores",
    help: "Whose token it is",
};

const RIGHTS: Setting = Setting {
    flag: "rights",
    value: "RIGHTS",
    default: Fallback::Value("rw"),
    allowed: "rw, or r to read only",
    help: "What it allows",
};

const KEYS: Setting = Setting {
    flag: "keys",
    value: "PREFIX",
    default: Fallback::Absent("all keys"),
    allowed: "the beginning of keys, such as team/",
    help: "What the keys begin with that it reaches",
};

pub(super) const PROGRAM: Program = Program {
    name: "kvstore-http token",
    version: env!("CARGO_PKG_VERSION"),
    about: "Makes a token: the line for --tokens-file to standard output, the token itself to standard error",
    settings: &[NAME, RIGHTS, KEYS],
    operand: Some(NAME.flag),
    commands: &[],
};

/// Bytes of chance in a token: nobody tries out so many.
const SECRET_BYTES: usize = 32;

pub(super) fn main() -> ExitCode {
    process::command(&PROGRAM, read, |(name, rights, keys)| {
        run(&name, &rights, &keys)
    })
}

fn read(settings: &mut Settings) -> Option<(String, String, String)> {
    // The line is made once for trial, so that what is wrong is said of the setting that it is in.
    let trial = |name: &str, rights: &str, keys: &str| token_line(name, "", rights, keys).map(drop);
    let own = |text: &str| text.to_owned();
    let name = settings.get_optional(&NAME, |text| trial(text, "r", "").map(|()| own(text)));
    let rights = settings.get(&RIGHTS, |text| match text {
        "r" | "rw" => Ok(own(text)),
        _ => Err("it is neither of the two"),
    });
    let keys = settings.get_optional(&KEYS, |text| trial("a", "r", text).map(|()| own(text)));
    let name = name?;
    if name.is_none() {
        settings.refuse(&NAME, "a token needs a name");
    }
    Some((name?, rights?, keys?.unwrap_or_default()))
}

fn run(name: &str, rights: &str, keys: &str) -> Result<ExitCode, Failure> {
    let mut secret = [0; SECRET_BYTES];
    OsRng.try_fill_bytes(&mut secret)?;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    print([token_line(name, &secret, rights, keys)?]);
    // Apart from the line, so that `>>` takes only what belongs into the file.
    writeln!(
        std::io::stderr(),
        "the token of {name}, which is shown this once: {secret}"
    )?;
    Ok(ExitCode::SUCCESS)
}
