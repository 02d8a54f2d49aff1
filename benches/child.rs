//! Runs the bench program again in its own process, to measure memory and processor time in
//! isolation.
//!
//! The child answers each line of input with a line, and exits at the end of its input, including
//! when the bench is killed.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use tokio::io::AsyncBufReadExt;

/// The argument that marks a child; its task follows.
pub(crate) const CHILD: &str = "--child";

/// A running child process.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Child {
    /// Starts it with `arguments`.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_by(Command::new(this_program()), arguments)
    }

    /// Starts it with `arguments` behind those of `command`, which runs it.
    pub(crate) fn start_by(mut command: Command, arguments: &[&str]) -> Self {
        let mut process = command
            .arg(CHILD)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{:?} can't be started (apt-get install valgrind): {error}",
                    command.get_program()
                )
            });
        let questions = process.stdin.take();
        let answers = process.stdout.take().expect("it is piped");
        Self {
            process,
            questions,
            answers: BufReader::new(answers),
        }
    }

    /// Returns its answer to `question`, as numbers.
    pub(crate) fn ask(&mut self, question: &str) -> Vec<f64> {
        let questions = self.questions.as_mut().expect("it runs");
        writeln!(questions, "{question}").expect("the child listens");
        let mut answer = String::new();
        self.answers
            .read_line(&mut answer)
            .expect("the child answers");
        answer
            .split_whitespace()
            .map(|number| number.parse().expect("the child answers with numbers"))
            .collect()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.process.wait();
    }
}

/// Returns the path of the running program.
pub(crate) fn this_program() -> PathBuf {
    std::env::current_exe().expect("this program has a path")
}

/// Returns the task of this process, if it is a child.
pub(crate) fn task() -> Option<Vec<String>> {
    let mut arguments = std::env::args().skip(1);
    (arguments.next()? == CHILD).then(|| arguments.collect())
}

/// Answers each question until there are no more.
pub(crate) async fn answer(mut answer: impl AsyncFnMut(&str) -> Vec<f64>) {
    let mut questions = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(question)) = questions.next_line().await {
        let numbers = answer(&question).await;
        let numbers: Vec<String> = numbers.iter().map(f64::to_string).collect();
        println!("{}", numbers.join(" "));
    }
}
