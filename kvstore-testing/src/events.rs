//! A client of `/v1/watch`: reads server-sent events as a browser does, from an answer in chunks.

use std::net::SocketAddr;

use crate::client::{Connection, Reply, Request};

/// A block between two empty lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// The kind of the event.
    pub name: String,
    /// The JSON text that came with it.
    pub data: String,
    /// The id that came with it, if one did.
    pub id: Option<String>,
    /// Lines without meaning for a page, without their colon.
    pub comment: String,
}

impl Event {
    /// Returns its data.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Returns the key that it is about.
    pub fn key(&self) -> String {
        self.json()["key"].as_str().expect("a key").to_owned()
    }
}

/// One open watch.
#[derive(Debug)]
pub struct Events {
    connection: Connection,
    text: String,
    /// The last id received, from which another watch continues.
    pub last_id: String,
    /// The head of the answer.
    pub head: Reply,
}

impl Events {
    /// Sends the request and reads the head of the answer.
    pub async fn open(address: SocketAddr, request: &Request) -> Self {
        let mut connection = Connection::open(address).await;
        let head = connection.ask(request).await;
        assert_eq!(head.status, 200, "{head:?}");
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        Self {
            connection,
            text: String::new(),
            last_id: String::new(),
            head,
        }
    }

    /// Reads the next block, even one without an event; `None` at the end.
    pub async fn block(&mut self) -> Option<Event> {
        let end = loop {
            if let Some(end) = self.text.find("\n\n") {
                break end;
            }
            let chunk = self.connection.chunk().await?;
            self.text += std::str::from_utf8(&chunk).expect("whole characters");
        };
        let block: String = self.text.drain(..end + 2).collect();
        let mut event = Event::default();
        for line in block.trim_end().lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "event" => event.name = value,
                "data" => event.data = value,
                "id" => {
                    self.last_id.clone_from(&value);
                    event.id = Some(value);
                }
                "" => event.comment = value,
                _ => {}
            }
        }
        Some(event)
    }

    /// Reads the next event that a page would receive; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let event = self.block().await?;
            if !event.data.is_empty() {
                return Some(event);
            }
        }
    }

    /// Reads the next event, and returns its name and data.
    pub async fn told(&mut self) -> (String, serde_json::Value) {
        let event = self.next().await.expect("an event, and not the end");
        (event.name.clone(), event.json())
    }
}
