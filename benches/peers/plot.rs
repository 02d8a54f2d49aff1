//! Draws the medians: bars, one panel per measure, with a linear scale in each panel.

use std::fmt::Write as _;

use crate::engine::{DATABASES, OURS};
use crate::figures::{Figures, number};
use crate::measure::{BATCHES, GETS, GETS_TWO, SCANS, WRITERS};

const PANEL_WIDTH: usize = 460;
const NAMES_WIDTH: usize = 130;
const BAR_WIDTH: f64 = 240.0;
const ROW: usize = 20;

/// Returns an SVG; `None` if nothing was measured.
pub(crate) fn svg(figures: &Figures) -> Option<String> {
    let [one, many, most] = WRITERS.map(|(rate, _, _)| rate);
    let panels: Vec<_> = [one, many, most, BATCHES, GETS, GETS_TWO, SCANS]
        .into_iter()
        .filter_map(|measure| panel(figures, measure))
        .collect();
    let rows = panels.len().div_ceil(2);
    let height = (DATABASES.len() + 3) * ROW;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
        2 * PANEL_WIDTH,
        rows * height,
    );
    for (index, panel) in panels.iter().enumerate() {
        let (x, y) = (index % 2 * PANEL_WIDTH, index / 2 * height);
        write!(text, "<g transform=\"translate({x} {y})\">\n{panel}</g>\n").ok()?;
    }
    text.push_str("</svg>\n");
    (!panels.is_empty()).then_some(text)
}

fn panel(figures: &Figures, measure: &'static str) -> Option<String> {
    let bars: Vec<_> = DATABASES
        .iter()
        .filter_map(|database| Some((database, figures.median(measure, database.name)?)))
        .collect();
    let longest = bars
        .iter()
        .map(|(_, figure)| *figure)
        .max_by(f64::total_cmp)?;
    let mut text = format!("<text x=\"10\" y=\"{ROW}\" font-weight=\"bold\">{measure}</text>\n");
    for (index, (database, figure)) in bars.into_iter().enumerate() {
        let y = (index + 2) * ROW;
        let width = (BAR_WIDTH * figure / longest).max(1.0);
        let color = match database.name {
            OURS => "#b5432a",
            _ if database.flushes || !measure.starts_with("sets") => "#5b7c99",
            // Databases that do not flush to the device are paler.
            _ => "#c3cfd9",
        };
        write!(
            text,
            "<text x=\"{NAMES_WIDTH}\" y=\"{y}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{}\" y=\"{}\" width=\"{width:.1}\" height=\"14\" fill=\"{color}\"/>\n\
             <text x=\"{:.1}\" y=\"{y}\">{}</text>\n",
            database.name.replace('<', "&lt;").replace('>', "&gt;"),
            NAMES_WIDTH + 8,
            y - 11,
            NAMES_WIDTH as f64 + 14.0 + width,
            number(figure),
        )
        .ok()?;
    }
    Some(text)
}
