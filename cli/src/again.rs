//! Says it once, or again whenever it has changed.

use std::{io::Write, time::Duration};

use anyhow::Result;
use tokio::time;

use crate::{End, args::Again};

const BETWEEN: Duration = Duration::from_secs(2);

/// Ends only with an error, or when it is said once.
pub(crate) async fn whenever_changed(
    again: Again,
    out: &mut impl Write,
    mut say: impl AsyncFnMut(&mut Vec<u8>) -> Result<End>,
) -> Result<End> {
    let mut last = None;
    loop {
        let mut said = Vec::new();
        // What was said before an error is said: of several proxies, only some may answer.
        let end = say(&mut said).await;
        if last.as_ref() != Some(&said) && !said.is_empty() {
            if last.is_some() {
                writeln!(out)?;
            }
            out.write_all(&said)?;
            out.flush()?;
        }
        let end = end?;
        if !again.watch {
            return Ok(end);
        }
        last = Some(said);
        time::sleep(BETWEEN).await;
    }
}
