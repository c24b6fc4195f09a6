//! Writes ustar archives in memory: enough for images that are imported, not pulled.

/// An archive being written. Every entry belongs to root and has time 0, so the same entries give the same bytes.
#[derive(Debug, Default)]
pub struct TarBuilder {
    bytes: Vec<u8>,
}

const BLOCK: usize = 512;

impl TarBuilder {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory, as `tmp/`.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, b'5', "", &[])
    }

    /// Adds a file, as `bin/busybox`.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(path, mode, b'0', "", content)
    }

    /// Adds a symbolic link at `path` to `target`.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, b'2', target, &[])
    }

    /// The archive with its end mark.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn entry(mut self, path: &str, mode: u32, kind: u8, link: &str, content: &[u8]) -> Self {
        assert!(path.len() <= 100 && link.len() <= 100, "paths of test images are short: {path}");
        let mut header = [0_u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| header[at..at + text.len()].copy_from_slice(text);
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&header);
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    #[test]
    fn tar_reads_what_we_write() {
        let dir = tempfile::tempdir().expect("a directory");
        let archive = dir.path().join("a.tar");
        let bytes =
            TarBuilder::new().dir("d/", 0o755).file("d/f", 0o640, b"hello").symlink("d/l", "f").finish();
        fs::write(&archive, bytes).expect("writing the archive");
        let tar = Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(dir.path())
            .output()
            .expect("tar runs");
        assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
        assert_eq!(fs::read_to_string(dir.path().join("d/l")).expect("the link leads to the file"), "hello");
    }
}
