//! Listens to the log, for tests of what it says.

use std::sync::{Arc, Mutex};

/// What was logged, for the thread that it is the subscriber of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<String>>);

impl tracing::Subscriber for Told {
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

impl Told {
    /// What was logged, a line for each event.
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().clone()
    }
}
