//! Counts the syncs of a folder's journals: each sync leaves a mark.

use std::path::Path;

/// Counts the marks in all files whose names start with `prefix`.
pub(crate) fn syncs(folder: &Path, prefix: &str) -> f64 {
    let files = std::fs::read_dir(folder).expect("the folder can be read");
    let mut marks = 0;
    for file in files.filter_map(Result::ok) {
        if file.file_name().to_string_lossy().starts_with(prefix) {
            let text = std::fs::read(file.path()).expect("the file can be read");
            let lines = text.split(|&byte| byte == b'\n');
            marks += lines
                .filter(|line| line.starts_with(br#"{"durable":"#))
                .count();
        }
    }
    marks as f64
}
