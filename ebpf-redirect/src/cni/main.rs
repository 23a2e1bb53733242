//! `weft-cni`: the chained CNI plugin, started by the container runtime for each pod.

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a plugin answers by its output")]
#![expect(clippy::disallowed_methods, reason = "CNI's arguments are variables of the environment")]

use std::env;
use std::io;
use std::process::ExitCode;

use weft_redirect::cni::plugin::{Environment, answer};

fn main() -> ExitCode {
    let environment = Environment {
        command: env::var("CNI_COMMAND").ok(),
        container: env::var("CNI_CONTAINERID").ok(),
        netns: env::var("CNI_NETNS").ok(),
        args: env::var("CNI_ARGS").ok(),
    };
    match answer(&environment, io::stdin()) {
        Ok(said) => {
            if let Some(said) = said {
                println!("{said}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", error.to_json());
            ExitCode::FAILURE
        }
    }
}
