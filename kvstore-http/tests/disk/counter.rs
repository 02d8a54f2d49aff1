//! A counter that one client counts up. An increment that was not answered is sent again, after a
//! restart as well, and still counts once.

use kvstore_testing::client::{Reply, Request, request};

/// One counter and what is known of it.
#[derive(Debug)]
pub(crate) struct Counter {
    pub(crate) key: String,
    /// How many increments were begun; the last one's number is its idempotency key.
    begun: u64,
    /// How many of them count.
    sum: u64,
    open: Option<Open>,
}

/// The last increment, as long as it is not answered for good.
#[derive(Debug, Default)]
struct Open {
    /// Whether it was sent before, so that a refusal says nothing of it.
    is_repeated: bool,
    /// Whether a read has shown that it counts.
    counts: bool,
    /// Whether an answer may still come.
    is_under_way: bool,
}

/// What an answer says.
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

    /// Whether an increment is to be sent again.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(crate) fn is_unanswered(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.is_under_way)
    }

    /// The request for the increment that is open, or for the next one.
    pub(crate) fn request(&mut self) -> Request {
        let is_repeated = self.open.is_some();
        self.begun += u64::from(!is_repeated);
        let open = self.open.get_or_insert_default();
        (open.is_repeated, open.is_under_way) = (is_repeated, true);
        let (key, number) = (&self.key, self.begun);
        request("POST", &format!("/v1/kv/{key}?add=1"))
            .header("idempotency-key", &format!("\"{key}:{number}\""))
    }

    /// Takes an answer as a client does.
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

    /// Looks at what a read has shown, once everything accepted is applied.
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
