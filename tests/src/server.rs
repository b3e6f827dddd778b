//! The S3 server of the tests: one for the whole test binary, started by `scripts/s3-server` and gone with this process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// What points to it: `AWS_*` and `NO_PROXY`.
    pub environment: Vec<(String, String)>,
    /// An empty bucket, `s3://…`.
    pub bucket: String,
    _child: Child,
    // the script stops the server when this closes, which it also does when the test is killed
    _input: ChildStdin,
}

/// The server, started by whoever asks first. Stops the test where it cannot be had.
pub fn server() -> &'static Server {
    static SERVER: LazyLock<Server> = LazyLock::new(start);
    &SERVER
}

fn start() -> Server {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("scripts/s3-server");
    let mut child =
        Command::new(&script).arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("scripts/s3-server can be started");
    let input = child.stdin.take().expect("a pipe");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut environment: Vec<(String, String)> = lines
        .map_while(Result::ok)
        .filter_map(|line| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    let bucket = environment.iter().position(|(name, _)| name == "SMELT_TEST_S3");
    let bucket = bucket.expect("scripts/s3-server could not start the S3 server; it said why on standard error");
    let bucket = environment.remove(bucket).1;
    Server { environment, bucket, _child: child, _input: input }
}
