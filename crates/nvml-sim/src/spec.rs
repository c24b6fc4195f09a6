//! A machine in one word: `a100x2`, `t4x4+h100`.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::profile::{self, Profile};

/// No machine has more; so a handle holds the index of any.
pub(crate) const CARDS_MAX: usize = 64;

/// Which cards a machine has, in the order of their indices.
///
/// Written as names of profiles with `+` between them, each with how many there are behind an `x`: `a100x2`, `t4x4+h100`. So in files too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct MachineSpec {
    text: String,
    cards: Vec<&'static str>,
}

/// Why a text is no machine. Each says how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidMachine {
    /// Nothing between two `+`, or nothing at all.
    #[error("{0:?} has an empty part: write cards as in \"a100x2\" or \"t4x4+h100\"")]
    Empty(String),
    /// No such card.
    #[error("{card:?} is no card that can be simulated: there are {known}")]
    UnknownCard {
        /// What stands there.
        card: String,
        /// What could stand there.
        known: String,
    },
    /// The number behind `x`.
    #[error("{part:?} does not say how many: write a number from 1 to {CARDS_MAX} behind the `x`")]
    Count {
        /// The part with that number.
        part: String,
    },
    /// Too many of them.
    #[error("{0} cards are more than a machine has: at most {CARDS_MAX}")]
    TooMany(usize),
}

impl MachineSpec {
    /// Reads a description.
    ///
    /// ```
    /// let machine = skerry_nvml_sim::MachineSpec::parse("t4x2+h100")?;
    /// assert_eq!(machine.cards(), ["t4", "t4", "h100"]);
    /// # Ok::<_, skerry_nvml_sim::InvalidMachine>(())
    /// ```
    ///
    /// # Errors
    /// See [`InvalidMachine`].
    pub fn parse(text: &str) -> Result<Self, InvalidMachine> {
        let mut cards = Vec::new();
        for part in text.split('+').map(str::trim) {
            if part.is_empty() {
                return Err(InvalidMachine::Empty(text.to_owned()));
            }
            let (name, count) = split(part)?;
            // Checked as it goes: what is written is not trusted with memory.
            if cards.len() + count > CARDS_MAX {
                return Err(InvalidMachine::TooMany(cards.len() + count));
            }
            cards.extend(std::iter::repeat_n(name, count));
        }
        Ok(Self { text: text.trim().to_owned(), cards })
    }

    /// The profile of each card, by name.
    pub fn cards(&self) -> &[&'static str] {
        &self.cards
    }

    pub(crate) fn profiles(&self) -> impl Iterator<Item = &'static Profile> {
        self.cards.iter().filter_map(|name| profile::find(name))
    }

    pub(crate) fn profile(&self, index: u32) -> Option<&'static Profile> {
        self.profiles().nth(usize::try_from(index).ok()?)
    }
}

/// A card's name and how many there are of it.
fn split(part: &str) -> Result<(&'static str, usize), InvalidMachine> {
    if let Some(name) = known(part) {
        return Ok((name, 1));
    }
    let unknown = |card: &str| InvalidMachine::UnknownCard {
        card: card.to_owned(),
        known: profile::names().join(", "),
    };
    let (name, count) = part.rsplit_once('x').ok_or_else(|| unknown(part))?;
    let name = known(name).ok_or_else(|| unknown(name))?;
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let count = count.parse().ok().filter(|count| digits && (1..=CARDS_MAX).contains(count));
    Ok((name, count.ok_or_else(|| InvalidMachine::Count { part: part.to_owned() })?))
}

fn known(name: &str) -> Option<&'static str> {
    profile::names().into_iter().find(|known| *known == name)
}

/// One T4.
impl Default for MachineSpec {
    fn default() -> Self {
        Self { text: "t4".to_owned(), cards: vec!["t4"] }
    }
}

impl fmt::Display for MachineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<MachineSpec> for String {
    fn from(spec: MachineSpec) -> Self {
        spec.text
    }
}

impl TryFrom<String> for MachineSpec {
    type Error = InvalidMachine;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl std::str::FromStr for MachineSpec {
    type Err = InvalidMachine;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn cards_are_counted_and_joined() {
        let cards = |text| MachineSpec::parse(text).map(|spec| spec.cards);
        assert_eq!(cards("a100x2"), Ok(vec!["a100", "a100"]));
        assert_eq!(cards(" t4x2 + h100 "), Ok(vec!["t4", "t4", "h100"]));
        assert_eq!(cards("orin"), Ok(vec!["orin"]));
    }

    #[test]
    fn a_wrong_text_is_told_how_to_mend_it() {
        let fault = |text| MachineSpec::parse(text).expect_err(text).to_string();
        assert_eq!(
            fault("v100x2"),
            "\"v100\" is no card that can be simulated: there are t4, a10, a4000, a100, h100, h200, orin, lost"
        );
        assert!(fault("a100x0").contains("a number from 1 to 64"));
        assert!(fault("a100x+1").contains("a number"), "{}", fault("a100x+1"));
        assert!(fault("t4+").contains("empty part"));
        assert!(fault("").contains("empty part"));
        assert_eq!(fault("t4x64+t4"), "65 cards are more than a machine has: at most 64");
    }

    proptest! {
        #[test]
        fn any_text_is_a_machine_or_an_error(text in ".{0,40}") {
            if let Ok(spec) = MachineSpec::parse(&text) {
                prop_assert!((1..=CARDS_MAX).contains(&spec.cards.len()));
                prop_assert_eq!(spec.profiles().count(), spec.cards.len());
            }
        }

        #[test]
        fn what_is_written_is_read_back(cards in proptest::collection::vec((0..8usize, 1..9usize), 1..8)) {
            let text: Vec<_> = cards.iter().map(|(card, count)| format!("{}x{count}", profile::names()[*card])).collect();
            let spec = MachineSpec::parse(&text.join("+")).expect("valid");
            prop_assert_eq!(MachineSpec::parse(&spec.to_string()), Ok(spec));
        }
    }
}
