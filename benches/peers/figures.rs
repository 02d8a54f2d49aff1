//! The measurements: one figure per round for each measure and database.

use std::collections::BTreeMap;

/// All figures so far.
#[derive(Debug, Default)]
pub(crate) struct Figures(BTreeMap<(&'static str, &'static str), Vec<f64>>);

/// The minimum, the median and the maximum of several rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) greatest: f64,
}

impl Figures {
    /// Adds the figure of one round.
    pub(crate) fn add(&mut self, measure: &'static str, database: &'static str, figure: f64) {
        self.0.entry((measure, database)).or_default().push(figure);
    }

    /// Returns all rounds; none if it was not measured.
    pub(crate) fn rounds(&self, measure: &'static str, database: &'static str) -> &[f64] {
        self.0.get(&(measure, database)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn median(&self, measure: &'static str, database: &'static str) -> Option<f64> {
        spread(self.rounds(measure, database)).map(|spread| spread.median)
    }

    /// Returns the ratio of one to the other, computed within each round.
    pub(crate) fn ratio(
        &self,
        one: (&'static str, &'static str),
        other: (&'static str, &'static str),
    ) -> Option<Spread> {
        let (one, other) = (self.rounds(one.0, one.1), self.rounds(other.0, other.1));
        let ratios: Vec<f64> = one
            .iter()
            .zip(other)
            .map(|(one, other)| one / other)
            .collect();
        spread(&ratios)
    }
}

fn spread(figures: &[f64]) -> Option<Spread> {
    let mut figures = figures.to_vec();
    figures.sort_unstable_by(f64::total_cmp);
    Some(Spread {
        least: *figures.first()?,
        median: figures[figures.len() / 2],
        greatest: *figures.last()?,
    })
}

/// Formats three digits, with commas between thousands.
pub(crate) fn number(figure: f64) -> String {
    let decimals = match figure {
        100.0.. => 0,
        10.0.. => 1,
        _ => 2,
    };
    let text = format!("{figure:.decimals$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + rest
}
