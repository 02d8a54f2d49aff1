//! An HTTP client that knows how the servers of these benches write, and so costs next to nothing.

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Builds a request whose body is JSON, or empty.
pub(crate) fn with_body(method: &str, path: &str, body: &str) -> String {
    let content = match body.len() {
        0 => String::new(),
        length => format!("content-type: application/json\r\ncontent-length: {length}\r\n"),
    };
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{content}\r\n{body}")
}

/// Reads one complete answer.
pub(crate) async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) {
    answer.clear();
    loop {
        let count = stream.read_buf(answer).await.expect("the server answers");
        assert!(count > 0, "the server has closed the connection");
        let Some(head) = position(answer, b"\r\n\r\n") else {
            continue;
        };
        let length = position(&answer[..head], LENGTH).expect("the length is known");
        let digits = answer[length + LENGTH.len()..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let length = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        if answer.len() >= head + 4 + length {
            return;
        }
    }
}

const LENGTH: &[u8] = b"content-length: ";

fn position(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
