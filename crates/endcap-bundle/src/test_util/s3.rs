//! A local S3 server for tests.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

use crate::S3Options;

/// The bucket that the server has.
pub const BUCKET: &str = "bundles";

/// A server with one bucket, in memory. It ends with this.
#[derive(Debug)]
pub struct S3Server {
    process: Child,
    /// host:port.
    pub address: String,
}

impl S3Server {
    /// Starts it on a free port and waits until it takes requests.
    ///
    /// # Panics
    /// Where it is not installed: `make setup-tests` does that.
    #[expect(clippy::unwrap_used, reason = "for tests, which fail by panicking")]
    pub fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/tests/bin/moto_server");
        assert!(program.exists(), "{} is missing: `make setup-tests` gets it", program.display());
        let mut process = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        // " * Running on http://127.0.0.1:40123"
        let address = lines.find_map(|line| {
            line.unwrap().split_once("Running on http://").map(|(_, address)| address.trim().to_owned())
        });
        let server = Self { process, address: address.unwrap() };
        // Whoever logs must be read, or it stops.
        std::thread::spawn(move || lines.for_each(drop));
        server.make_bucket();
        server
    }

    /// How it is reached.
    pub fn options(&self) -> S3Options {
        options(&self.address)
    }

    #[expect(clippy::unwrap_used, reason = "for tests, which fail by panicking")]
    fn make_bucket(&self) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let request =
            format!("PUT /{BUCKET} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// How a server without passwords at `address` is reached.
pub fn options(address: &str) -> S3Options {
    S3Options {
        endpoint: format!("http://{address}"),
        region: "us-east-1".to_owned(),
        access_key_id: "key".to_owned(),
        secret_access_key: "hunter2".to_owned(),
        ..S3Options::default()
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        if let Err(error) = ended {
            eprintln!("the S3 server was not ended: {error}");
        }
    }
}
