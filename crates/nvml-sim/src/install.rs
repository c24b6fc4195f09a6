//! The library as a file: where it was built, and a copy of it with a control file of its own.

use std::{
    env::{self, consts},
    fs, io,
    path::{Path, PathBuf},
};

use thiserror::Error;

use crate::control::{Control, ControlError};

/// A library with its control file.
#[derive(Clone, Debug)]
pub struct Placed {
    /// What a program loads.
    pub library: PathBuf,
    /// What says what is simulated; write it again to change that.
    pub control: PathBuf,
}

/// Why there is no library.
#[derive(Debug, Error)]
pub enum NotBuilt {
    /// It is not beside this program.
    #[error("there is no {name} beside {}: build it with `cargo build -p skerry-nvml-sim`", program.display())]
    Missing {
        /// The file's name.
        name: String,
        /// This program.
        program: PathBuf,
    },
    /// This program, or a directory, is out of reach.
    #[error("placing the simulator's library: {0}")]
    Io(#[from] io::Error),
    /// What should be simulated.
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// Where cargo has put the library: beside this program, or beside its tests' directory.
///
/// # Errors
/// It is not there.
pub fn built_library() -> Result<PathBuf, NotBuilt> {
    let name = format!("{}skerry_nvml_sim{}", consts::DLL_PREFIX, consts::DLL_SUFFIX);
    let program = env::current_exe()?;
    let dir = program.parent().unwrap_or(Path::new(""));
    // A test is in `deps`, and so is the library where it was built as a dependency.
    let places = [dir.to_owned(), dir.join("deps"), dir.join("..")];
    let found = places.into_iter().map(|place| place.join(&name)).find(|path| path.is_file());
    found.ok_or(NotBuilt::Missing { name, program })
}

/// Puts a copy of the library into `dir`, with a control file of its own: a machine apart from all others in this process.
///
/// # Errors
/// See [`NotBuilt`].
pub fn place(library: &Path, dir: &Path, control: &Control) -> Result<Placed, NotBuilt> {
    let copy = dir.join(format!("{}nvml{}", consts::DLL_PREFIX, consts::DLL_SUFFIX));
    // A copy: the system takes links to one file for one library.
    fs::copy(library, &copy)?;
    let mut beside = copy.clone();
    beside.as_mut_os_string().push(".toml");
    control.write(&beside)?;
    Ok(Placed { library: copy, control: beside })
}
