//! Captures the log, for tests of what it says.

use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;
use tracing::subscriber::DefaultGuard;

/// A subscriber that collects the log of its thread.
#[derive(Clone, Debug)]
pub(crate) struct CapturedLog(Arc<Mutex<String>>);

/// A subscriber of no thread, which lives as long as the process. While only one subscriber is
/// alive, `tracing` asks the thread that reaches an event first whether it is interested, and a
/// thread without a subscriber would switch the event off for all.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(CapturedLog(Arc::default())));

impl Default for CapturedLog {
    fn default() -> Self {
        LazyLock::force(&SECOND);
        Self(Arc::default())
    }
}

impl tracing::Subscriber for CapturedLog {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut told = self.0.lock().unwrap();
        *told += event.metadata().level().as_str();
        event.record(
            &mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                *told += &format!(" {field}={value:?}");
            },
        );
        *told += "\n";
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

impl CapturedLog {
    /// Captures the log of this thread until the guard is dropped.
    pub(crate) fn listen(&self) -> DefaultGuard {
        tracing::subscriber::set_default(self.clone())
    }

    /// Returns the captured log, one line per event.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_that_a_thread_without_a_listener_reaches_first_is_heard() {
        let event = || tracing::warn!("heard");
        let told = CapturedLog::default();
        let _listening = told.listen();
        std::thread::spawn(event).join().unwrap();
        event();
        assert_eq!(told.text().lines().count(), 1);
    }
}
