//! The look at the control file: seldom, and with an answer only when it changed.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use crate::control::{Control, ControlError};

/// Between two looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A file that was changed just now may change again within what its time tells apart, so it is read.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct ControlFile {
    path: PathBuf,
    looked: Option<Instant>,
    stamp: Option<(SystemTime, u64)>,
    /// Of the last look: the text, or why there is none.
    text: Option<Result<String, io::ErrorKind>>,
}

impl ControlFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, looked: None, stamp: None, text: None }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, where that is not what it said at the last look.
    pub(crate) fn look(&mut self) -> Option<Result<Control, ControlError>> {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return None;
        }
        self.looked = Some(Instant::now());
        let stamp = fs::metadata(&self.path).and_then(|meta| Ok((meta.modified()?, meta.len()))).ok();
        let fresh = stamp.is_none_or(|(changed, _)| changed.elapsed().is_ok_and(|age| age < FRESH));
        if !fresh && stamp == self.stamp {
            return None;
        }
        self.stamp = stamp;
        let read = fs::read_to_string(&self.path);
        let text = match &read {
            Ok(text) => Ok(text.clone()),
            Err(error) => Err(error.kind()),
        };
        if self.text.as_ref() == Some(&text) {
            return None;
        }
        self.text = Some(text);
        let source = |source| ControlError::File { path: self.path.clone(), source };
        Some(read.map_err(source).and_then(|text| Control::parse(&text)))
    }

    /// Says what is wrong, and what follows: on standard error, and in a file beside it that goes when all is well.
    pub(crate) fn report(&self, fault: Option<&ControlError>, follows: &str) {
        let mut beside = self.path.as_os_str().to_owned();
        beside.push(".error");
        let beside = Path::new(&beside);
        // Where that cannot be written, standard error has to do.
        let _ = match fault {
            None => fs::remove_file(beside),
            Some(fault) => {
                eprintln!(
                    "skerry-nvml-sim: {}: {follows}: {}",
                    self.path.display(),
                    fault.to_string().trim_end()
                );
                fs::write(beside, format!("{fault}\n"))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As if the time between two looks had passed.
    fn look(file: &mut ControlFile) -> Option<Result<Control, ControlError>> {
        file.looked = None;
        file.look()
    }

    #[test]
    fn only_a_change_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.toml");
        let mut file = ControlFile::new(path.clone());
        assert!(matches!(look(&mut file), Some(Err(ControlError::File { .. }))));
        assert!(look(&mut file).is_none());
        for machine in ["t4", "a10", "t4"] {
            fs::write(&path, format!("machine = {machine:?}")).expect("written");
            let told = look(&mut file).expect("a change").expect("good");
            assert_eq!(told.machine.to_string(), machine);
            assert!(look(&mut file).is_none());
        }
    }

    #[test]
    fn between_two_looks_nothing_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.toml");
        let mut file = ControlFile::new(path.clone());
        file.looked = Some(Instant::now() + Duration::from_secs(3600));
        fs::write(&path, "machine = \"a10\"").expect("written");
        assert!(file.look().is_none());
    }

    #[test]
    fn a_report_lies_beside_the_file_while_it_is_wrong() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("control.toml");
        fs::write(&path, "machine = \"v100\"").expect("written");
        let mut file = ControlFile::new(path);
        let fault = look(&mut file).expect("a change").expect_err("no such card");
        file.report(Some(&fault), "nothing changes");
        let beside = dir.path().join("control.toml.error");
        let text = fs::read_to_string(&beside).expect("there");
        assert!(text.contains("line 1, column 11") && text.contains("v100"), "{text}");
        file.report(None, "");
        assert!(!beside.exists());
    }
}
