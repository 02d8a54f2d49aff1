//! The results of a run, as a table.

use std::time::Duration;

use super::client::Client;
use super::nemesis::Counts;
use kvstore_testing::history::{Kind, check};
use kvstore_testing::history::{Operation, Verdict, What};

/// Number of violations that are shown in full.
const SHOWN: usize = 5;

pub(crate) struct Report {
    faults: Counts,
    ended: usize,
    history: Vec<Operation>,
    wrong: Vec<String>,
    replays: usize,
}

impl Report {
    pub(crate) fn new(faults: Counts, ended: usize) -> Self {
        Self {
            faults,
            ended,
            history: Vec::new(),
            wrong: Vec::new(),
            replays: 0,
        }
    }

    pub(crate) fn add(&mut self, client: Client) {
        self.history.extend(client.history);
        self.wrong.extend(client.wrong);
        self.replays += client.replays;
    }

    /// Prints the table.
    ///
    /// # Panics
    /// If a promise was broken, or the run tested less than intended.
    pub(crate) fn finish(self, elapsed: Duration) {
        let verdicts = |is: fn(&Verdict) -> bool| {
            let writes = self.history.iter().filter_map(Operation::write);
            writes.filter(|write| is(&write.verdict)).count()
        };
        let reads = self
            .history
            .iter()
            .filter(|it| matches!(it.what, What::Read(_)));
        let applied = verdicts(|it| matches!(it, Verdict::Applied { .. }));
        let failed = verdicts(|it| matches!(it, Verdict::Failed { .. }));
        let unknown = verdicts(|it| *it == Verdict::Unknown);
        let found = check(&self.history);
        let count = |kind| found.iter().filter(|found| found.kind == kind).count();
        let mut rows: Vec<(&str, usize)> = self
            .faults
            .iter()
            .map(|(fault, times)| (fault.words(), *times))
            .collect();
        rows.extend([
            (
                "processes that ended by themselves, and were started again",
                self.ended,
            ),
            ("reads", reads.count()),
            ("writes applied", applied),
            ("writes whose condition failed", failed),
            ("writes refused", verdicts(|it| *it == Verdict::Refused)),
            ("writes of unknown outcome", unknown),
            (
                "requests repeated under their idempotency key",
                self.replays,
            ),
            ("lost", count(Kind::Lost)),
            ("duplicated", count(Kind::Duplicated)),
            ("reordered", count(Kind::Reordered)),
            ("answers that no order explains", count(Kind::Unexplained)),
        ]);
        for (what, times) in rows {
            println!("{times:>8}  {what}");
        }
        println!("{:>8}  seconds", elapsed.as_secs());
        for found in found.iter().take(SHOWN) {
            println!("{found}");
        }
        assert!(
            self.wrong.is_empty(),
            "{} answers that must not be: {:#?}",
            self.wrong.len(),
            &self.wrong[..self.wrong.len().min(SHOWN)]
        );
        assert!(found.is_empty(), "{} promises broken", found.len());
        assert!(
            applied > 300 && failed > 30,
            "too little was written to say anything"
        );
        assert!(unknown > 0 && self.replays > 0, "no fault has met a write");
    }
}
