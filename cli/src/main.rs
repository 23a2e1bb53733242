use std::process::ExitCode;

use clap::Parser;
use weft_cli::{Cli, End};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version come this way too. Nowhere to write to is nothing to be done about.
        Err(error) => {
            let _ = error.print();
            return End::of_usage(&error).into();
        }
    };
    match weft_cli::run(cli, &mut std::io::stdout().lock()).await {
        Ok(end) => end.into(),
        Err(error) => {
            eprintln!("weft: {error:#}");
            End::Error.into()
        }
    }
}
