// Ask the oracle from Rust, with the standard library only: what does the firmware answer, and why?
// rustc --edition 2021 client.rs && ./client sevref

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

struct Oracle {
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Oracle {
    fn start(command: &[String]) -> std::io::Result<Oracle> {
        let mut process = Command::new(&command[0])
            .args(&command[1..])
            .args(["serve", "--stdio"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let requests = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Ok(Oracle { process, requests, answers })
    }

    /// One request, one answer, each a line of JSON. A program with more to do takes a JSON library here.
    fn ask(&mut self, request: &str) -> std::io::Result<String> {
        writeln!(self.requests, "{request}")?;
        self.requests.flush()?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        assert!(answer.contains("\"ok\": true"), "{answer}");
        Ok(answer)
    }

    fn stop(mut self) -> std::io::Result<()> {
        drop(self.requests); // the oracle ends with its input
        assert!(self.process.wait()?.success());
        Ok(())
    }
}

/// The text of a field of an answer. Statuses, rules and hex hold no escaped character.
fn field<'a>(answer: &'a str, name: &str) -> &'a str {
    let start = format!("\"{name}\": \"");
    let rest = answer.split_once(start.as_str()).expect(name).1;
    &rest[..rest.find('"').unwrap()]
}

fn main() -> std::io::Result<()> {
    let mut command: Vec<String> = std::env::args().skip(1).collect();
    if command.is_empty() {
        command.push("sevref".to_string());
    }
    let mut oracle = Oracle::start(&command)?;
    oracle.ask(r#"{"op": "create", "seed": "00"}"#)?;
    let init = oracle.ask(&format!(r#"{{"op": "cmd", "cmd": "INIT", "cmdbuf_in": "{}"}}"#, "00".repeat(20)))?;
    println!("{}", field(&init, "status"));
    let activate = oracle.ask(r#"{"op": "cmd", "cmd": "ACTIVATE", "cmdbuf_in": "0100000064000000"}"#)?;
    println!("{} - {}", field(&activate, "status"), field(&activate, "rule"));
    oracle.stop()
}
