//! Parses server-sent events from the pieces of an answer
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>).

/// One event, or an advance of the id alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerSentEvent {
    pub(crate) name: String,
    pub(crate) data: String,
    /// The id after this event, if the event sets one.
    pub(crate) id: Option<String>,
}

/// A parser that splits text into events.
#[derive(Debug, Default)]
pub(crate) struct EventParser {
    /// The part of the current line received so far.
    line: Vec<u8>,
    next: ServerSentEvent,
}

impl EventParser {
    /// Returns the number of bytes held of an incomplete event.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.line.len() + self.next.data.len()
    }

    /// Takes a piece of text and passes on each event that it completes.
    pub(crate) fn take(&mut self, piece: &[u8], mut event: impl FnMut(ServerSentEvent)) {
        for part in piece.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line);
                if let Some(sent) = self.line(line.trim_end_matches(['\r', '\n'])) {
                    event(sent);
                }
            }
        }
    }

    fn line(&mut self, line: &str) -> Option<ServerSentEvent> {
        if line.is_empty() {
            let sent = std::mem::take(&mut self.next);
            return (sent != ServerSentEvent::default()).then_some(sent);
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.next.name),
            "id" => self.next.id = Some(value.to_owned()),
            "data" => {
                if !self.next.data.is_empty() {
                    self.next.data.push('\n');
                }
                self.next.data.push_str(value);
            }
            // A comment, or `retry`: the client chooses its own pauses.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_however_the_text_is_split() {
        let text = "retry: 2000\nid: 1\n\n: heartbeat\n\nid: 2\r\nevent: set\r\ndata: {\"a\":\r\ndata: 1}\r\n\r\nevent:synced\ndata:{}\n\nid: 3\n";
        let sent = |name: &str, data: &str, id: Option<&str>| ServerSentEvent {
            name: name.to_owned(),
            data: data.to_owned(),
            id: id.map(str::to_owned),
        };
        let whole = [
            sent("", "", Some("1")),
            sent("set", "{\"a\":\n1}", Some("2")),
            sent("synced", "{}", None),
        ];
        for size in 1..text.len() {
            let mut events = EventParser::default();
            let mut found = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                events.take(piece, |sent| found.push(sent));
            }
            assert_eq!(found, whole, "pieces of {size}");
        }
    }
}
