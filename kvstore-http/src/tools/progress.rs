//! A bar on standard error while something goes on that takes long; none where that is no terminal.

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

/// Counts entries; `total` of them where that is known. It is gone when it is dropped.
pub(super) fn of_entries(doing: &'static str, total: Option<u64>) -> ProgressBar {
    match total {
        Some(total) => begin(
            ProgressBar::new(total),
            "{msg} {bar:30} {human_pos} of {human_len} entries, {eta} left",
            doing,
        ),
        None => begin(
            ProgressBar::new_spinner(),
            "{msg} {human_pos} entries, {per_sec}",
            doing,
        ),
    }
}

/// Counts the bytes of a file that has `total` of them.
pub(super) fn of_bytes(doing: &'static str, total: u64) -> ProgressBar {
    begin(
        ProgressBar::new(total),
        "{msg} {bar:30} {binary_bytes} of {binary_total_bytes}, {eta} left",
        doing,
    )
}

fn begin(bar: ProgressBar, template: &str, doing: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).expect("a template of this file");
    let bar = bar
        .with_style(style)
        .with_message(doing)
        .with_finish(ProgressFinish::AndClear);
    bar.tick();
    bar
}
