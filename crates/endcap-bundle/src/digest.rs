//! SHA-256 of bytes and files.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use endcap_types::Digest;
use sha2::{Digest as _, Sha256};

pub(crate) fn of_bytes(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Which side of a copy failed: a full disk is no fault of the archive.
#[derive(Debug)]
pub(crate) enum CopyError {
    Read(io::Error),
    Write(io::Error),
}

/// Digest and size of a file.
pub(crate) fn of_file(path: &Path) -> io::Result<(Digest, u64)> {
    let mut file = File::open(path)?;
    copy(&mut file, &mut io::sink()).map_err(|(CopyError::Read(error) | CopyError::Write(error))| error)
}

/// Copies and digests in one pass.
pub(crate) fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<(Digest, u64), CopyError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok((Digest::from_bytes(hasher.finalize().into()), size)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(CopyError::Read(error)),
        };
        hasher.update(&buffer[..read]);
        to.write_all(&buffer[..read]).map_err(CopyError::Write)?;
        size += read as u64;
    }
}
