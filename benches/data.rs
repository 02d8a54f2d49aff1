//! A folder with many entries, as it is before a store first opens it.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::support::{key, value};

/// Returns a large number of entries: a million if `KVSTORE_BENCH=full` is set, and otherwise what
/// can be measured in a few minutes.
#[expect(clippy::disallowed_methods, reason = "a bench has no other settings")]
pub(crate) fn many() -> usize {
    match std::env::var("KVSTORE_BENCH") {
        Ok(choice) if choice == "full" => 1_000_000,
        _ => 100_000,
    }
}

/// Writes a `data.json` of `entries` entries, as another program might.
pub(crate) fn fill(folder: &Path, entries: usize) {
    let write = || {
        let file = std::fs::File::create(folder.join("data.json"))?;
        let mut file = BufWriter::new(file);
        let value = value();
        for number in 0..entries {
            let before = if number == 0 { '{' } else { ',' };
            write!(file, "{before}\n\"{}\":{value}", key(number))?;
        }
        file.write_all(b"\n}\n")?;
        file.into_inner()?.sync_all()
    };
    write().expect("the folder can be written");
}
