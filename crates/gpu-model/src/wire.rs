//! Sets of fields as frames have them: bit n of word w is field number 64 w + n.

/// Most words of a set: field numbers are below 256.
pub(crate) const WORDS_MAX: usize = 4;

/// Adds a field to a set.
pub(crate) fn insert(words: &mut Vec<u64>, number: u32) {
    let word = (number / 64) as usize;
    if words.len() <= word {
        words.resize(word + 1, 0);
    }
    words[word] |= 1 << (number % 64);
}

/// The numbers in a set, in their order. Words beyond the bound are not looked at.
pub(crate) fn numbers(words: &[u64]) -> impl Iterator<Item = u32> + '_ {
    (0u32..).zip(words.iter().take(WORDS_MAX)).flat_map(|(at, word)| {
        let mut left = *word;
        std::iter::from_fn(move || {
            let bit = (left != 0).then(|| left.trailing_zeros())?;
            left &= left - 1;
            Some(64 * at + bit)
        })
    })
}

/// How many are in a set.
pub(crate) fn len(words: &[u64]) -> usize {
    words.iter().map(|word| word.count_ones() as usize).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it_in_order() {
        let mut words = Vec::new();
        for number in [81, 1, 64, 63, 1, 255] {
            insert(&mut words, number);
        }
        assert_eq!(numbers(&words).collect::<Vec<_>>(), [1, 63, 64, 81, 255]);
        assert_eq!(len(&words), 5);
        assert_eq!(words.len(), WORDS_MAX);
    }

    #[test]
    fn fields_of_every_second_fit_four_bytes() {
        let mut words = Vec::new();
        insert(&mut words, 27);
        assert!(words.len() == 1 && words[0] < 1 << 28, "{words:?}");
    }
}
