//! Requests to the journal thread, and their answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, Result};
use crate::in_memory::state::{Record, Shared, Staging};
use crate::json_file::writer::{Group, GroupReply, Writer};
use crate::model::id::Position;

/// A request to the journal thread.
pub(crate) enum WriterRequest {
    /// Judge a change, and write it with its group. A change with `has_room` completes or attempts
    /// a waiting job: space for that is reserved, however full the disk is.
    Change { has_room: bool, judge: Judge },
    /// Number further jobs after this position, up to which another store has applied them.
    StartAfter(Position, ReplySender<()>),
    /// Check that the folder is still there, and that no write has failed.
    Check(ReplySender<()>),
    /// Bring `data.json` up to date.
    Snapshot(ReplySender<()>),
    /// The snapshot in the background has ended.
    SnapshotEnded,
    /// Bring `data.json` up to date, remove the journals and stop.
    Close(ReplySender<()>),
}

/// Judges a change against the state and what is staged before it in its group.
pub(crate) type Judge = Box<dyn FnOnce(&Writer, &mut Group, &mut Staging<'_>) -> GroupReply + Send>;

pub(crate) type ReplySender<T> = oneshot::Sender<Result<T>>;

/// The sending side: submits requests and waits for their answers.
#[derive(Clone, Debug)]
pub(crate) struct Requests {
    pub(super) sender: mpsc::Sender<WriterRequest>,
    pub(super) shared: Arc<Shared>,
}

impl Requests {
    /// Checks that the thread still takes requests.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the thread takes no more requests.
    pub(crate) fn check_open(&self) -> Result<()> {
        match self.sender.is_closed() {
            true => Err(closed()),
            false => Ok(()),
        }
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if the thread ended before it took the request; [`Error::Unknown`] if
    /// the thread took it and panicked, the only way in which it fails to answer.
    pub(crate) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> WriterRequest,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let sent = self.sender.send(request(sender)).await;
        sent.map_err(|_| closed())?;
        receiver.await.map_err(|_| match self.shared.is_closed() {
            true => closed(),
            false => Error::Unknown {
                what: "the write is on the disk".into(),
                source: None,
            },
        })
    }

    /// Requests a change. `judge` returns its record, if there is one, and the answer to give once
    /// that record is on the disk.
    ///
    /// # Errors
    /// Those of [`ask`](Self::ask), of `judge` and of the write.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        has_room: bool,
        judge: impl FnOnce(&Writer, &mut Group, &mut Staging<'_>) -> Result<(Option<Record>, T)>
        + Send
        + 'static,
    ) -> Result<T> {
        let request = |answer: ReplySender<T>| WriterRequest::Change {
            has_room,
            judge: Box::new(move |writer, group, staging| {
                let judged = judge(writer, group, staging);
                group.reply(answer, judged)
            }),
        };
        self.ask(request).await?
    }
}

fn closed() -> Error {
    Error::unavailable("the store")
}
