//! How the demo speaks: steps, commands as they were run in a pod, and what came of them.

use anyhow::Result;
use weft_tests::lab::Pod;

/// Counts the steps that were told.
#[derive(Debug, Default)]
pub(crate) struct Story {
    steps: u8,
}

impl Story {
    /// A new step, and what it will show.
    pub(crate) fn step(&mut self, title: &str) {
        self.steps += 1;
        println!("\n\x1b[1m{}. {title}\x1b[0m", self.steps);
    }
}

/// What has been seen, for the one who watches.
pub(crate) fn note(text: &str) {
    println!("   \x1b[32m✓\x1b[0m {text}");
}

/// A command and what it printed.
pub(crate) fn shown(place: &str, command: &str, output: &str) {
    println!("   \x1b[36m{place}$\x1b[0m {command}");
    for line in output.trim_end().lines() {
        println!("     {line}");
    }
}

/// Runs curl in a pod and shows both.
pub(crate) fn curl(pod: &Pod, url: &str) -> Result<String> {
    let answer = pod.curl(url);
    let text = match &answer {
        Ok(body) => body.clone(),
        Err(error) => format!("{error:#}"),
    };
    shown(pod.name(), &format!("curl {url}"), &text);
    answer
}
