//! A counter that one client increments. An unanswered increment is sent again, even after a
//! restart, and still counts once.

use kvstore_testing::client::{Reply, Request, request};

/// How long an increment's idempotency key is kept, in seconds: longer than an increment stays open.
/// With all keys of a long run, each snapshot and each start would take seconds.
const WINDOW: u64 = 120;

/// A counter and the client's knowledge of it.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) key: String,
    /// Number of increments begun; the number of the last one is its idempotency key.
    begun: u64,
    /// Number of increments that count.
    sum: u64,
    open: Option<Open>,
}

/// The last increment, until its outcome is known.
#[derive(Debug, Default)]
struct Open {
    /// True if it was sent before, so that a refusal leaves the outcome open.
    is_repeated: bool,
    /// True if a read has shown that it counts.
    counts: bool,
    /// True if an answer may still come.
    is_under_way: bool,
}

/// The meaning of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Acknowledged,
    Refused,
    Unknown,
}

impl Counter {
    pub(crate) fn new(key: String) -> Self {
        Self {
            key,
            begun: 0,
            sum: 0,
            open: None,
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns true if an increment must be sent again.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_under_way)
    }

    /// Returns the request for the open increment, or for the next one.
    pub(crate) fn request(&mut self) -> Request {
        let is_repeated = self.open.is_some();
        self.begun += u64::from(!is_repeated);
        let open = self.open.get_or_insert_default();
        (open.is_repeated, open.is_under_way) = (is_repeated, true);
        let (key, number) = (&self.key, self.begun);
        request("POST", &format!("/v1/kv/{key}?add=1")).header(
            "idempotency-key",
            &format!("\"{key}:{number}\";window={WINDOW}"),
        )
    }

    /// Processes an answer as a client does.
    pub(crate) fn take(&mut self, reply: &Reply) -> Answer {
        let mut open = self.open.take().expect("an increment under way");
        open.is_under_way = false;
        match reply.status {
            200..=202 => {
                self.sum += u64::from(!open.counts);
                if reply.status != 202 {
                    let body = reply.json();
                    assert_eq!(body["value"], self.sum, "{}: {reply:?}", self.key);
                    assert_eq!(body["created"], self.sum == 1, "{}: {reply:?}", self.key);
                }
                Answer::Acknowledged
            }
            503 | 507 => {
                self.open = open.is_repeated.then_some(open);
                Answer::Refused
            }
            504 => {
                self.open = Some(open);
                Answer::Unknown
            }
            _ => panic!("{}: {reply:?}", self.key),
        }
    }

    /// Checks the result of a read, once everything accepted is applied.
    pub(crate) fn check(&mut self, reply: &Reply) {
        let found: u64 = match reply.status {
            200 => reply.text().parse().expect("a number"),
            404 => 0,
            _ => panic!("{}: {reply:?}", self.key),
        };
        if let Some(open) = &mut self.open {
            open.is_under_way = false;
            if !open.counts && found == self.sum + 1 {
                open.counts = true;
                self.sum = found;
            }
        }
        assert_eq!(found, self.sum, "{}: {:?}", self.key, self.open);
    }
}
