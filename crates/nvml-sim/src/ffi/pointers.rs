//! What C's arguments become: numbers stay, pointers turn into things that can only be used as NVML means them.

use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_ulonglong},
    marker::PhantomData,
};

use crate::code::{Answer, Code};

/// No caller of NVML has longer arrays; a longer one is taken for a mistake.
const ITEMS_MAX: usize = 1 << 20;

/// An argument on its way in.
pub(crate) trait Enter {
    /// What it becomes.
    type Safe;

    /// # Safety
    /// A pointer is null, or may be read and written as what its type says for as long as the result lives; an array in as many items as
    /// its count says, a text up to its NUL.
    #[allow(unsafe_code, reason = "whoever calls promises what a pointer is")]
    unsafe fn enter(self) -> Self::Safe;
}

macro_rules! numbers {
    ($( $type:ty ),*) => { $(
        impl Enter for $type {
            type Safe = Self;

            #[allow(unsafe_code, reason = "as the trait says; a number promises nothing")]
            unsafe fn enter(self) -> Self {
                self
            }
        }
    )* };
}

numbers!(c_uint, c_ulonglong, c_int);

/// A place, or an array, that the caller has.
pub(crate) struct Place<'a, T> {
    at: *mut T,
    lives: PhantomData<&'a mut T>,
}

impl<T: 'static> Enter for *mut T {
    type Safe = Place<'static, T>;

    #[allow(unsafe_code, reason = "as the trait says")]
    unsafe fn enter(self) -> Self::Safe {
        Place { at: self, lives: PhantomData }
    }
}

/// A text that the caller has.
pub(crate) struct Text(*const c_char);

impl Enter for *const c_char {
    type Safe = Text;

    #[allow(unsafe_code, reason = "as the trait says")]
    unsafe fn enter(self) -> Text {
        Text(self)
    }
}

impl Text {
    /// # Errors
    /// `INVALID_ARGUMENT`: null, or no UTF-8.
    #[allow(unsafe_code, reason = "reads what the caller has")]
    pub(crate) fn get(&self) -> Answer<&str> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so a text that ends in NUL, by what `enter` was promised.
        unsafe { CStr::from_ptr(self.0) }.to_str().map_err(|_| Code::INVALID_ARGUMENT)
    }
}

impl<T: Copy> Place<'_, T> {
    /// Puts a value there.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: null.
    pub(crate) fn put(&self, value: T) -> Answer<()> {
        self.put_at(0, value)
    }

    /// What is there.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`: null.
    pub(crate) fn get(&self) -> Answer<T> {
        self.get_at(0)
    }

    /// Changes what is there, item by item.
    pub(crate) fn each(&self, count: usize, change: impl Fn(T) -> T) -> Answer<()> {
        if count > ITEMS_MAX {
            return Err(Code::INVALID_ARGUMENT);
        }
        (0..count).try_for_each(|at| self.put_at(at, change(self.get_at(at)?)))
    }

    /// Hands over a list as NVML does: `count` says how many fit in, and how many there are when it returns.
    ///
    /// # Errors
    /// `INSUFFICIENT_SIZE`: they do not fit.
    pub(crate) fn list(&self, count: &Place<'_, c_uint>, items: &[T]) -> Answer<()> {
        let fits = usize::try_from(count.get()?).unwrap_or(usize::MAX);
        count.put(c_uint::try_from(items.len()).map_err(|_| Code::UNKNOWN)?)?;
        if items.is_empty() {
            return Ok(());
        }
        if self.at.is_null() || fits < items.len() {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        items.iter().enumerate().try_for_each(|(at, item)| self.put_at(at, *item))
    }

    #[allow(unsafe_code, reason = "writes where the caller has room")]
    fn put_at(&self, at: usize, value: T) -> Answer<()> {
        if self.at.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, so there is room for as many as the caller said, by what `enter` was promised; `at` is below that.
        // Unaligned, since a caller in C may pack its structures.
        unsafe { self.at.add(at).write_unaligned(value) };
        Ok(())
    }

    #[allow(unsafe_code, reason = "reads what the caller has")]
    fn get_at(&self, at: usize) -> Answer<T> {
        if self.at.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: as in `put_at`, and the caller has set what it hands over.
        Ok(unsafe { self.at.add(at).read_unaligned() })
    }
}

impl Place<'_, c_char> {
    /// Puts a text there that has room for `length` bytes with its NUL.
    ///
    /// # Errors
    /// `INSUFFICIENT_SIZE`: it does not fit.
    pub(crate) fn text(&self, length: c_uint, text: &str) -> Answer<()> {
        if self.at.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let fits = usize::try_from(length).unwrap_or(usize::MAX);
        if text.len() >= fits {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        chars(text).chain([0]).enumerate().try_for_each(|(at, char)| self.put_at(at, char))
    }
}

/// The bytes of a text as C has them.
pub(crate) fn chars(text: &str) -> impl Iterator<Item = c_char> + '_ {
    #[allow(
        clippy::cast_possible_wrap,
        clippy::allow_attributes,
        reason = "`c_char` is signed on some machines"
    )]
    text.bytes().map(|byte| byte as c_char)
}

/// A text in an array of C, cut to fit, with NUL behind it.
pub(crate) fn array<const N: usize>(text: &str) -> [c_char; N] {
    let mut array = [0; N];
    for (place, char) in array.iter_mut().take(N.saturating_sub(1)).zip(chars(text)) {
        *place = char;
    }
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(unsafe_code, reason = "pointers of this test")]
    fn place<T: 'static>(at: &mut T) -> Place<'_, T> {
        // SAFETY: one that is borrowed for as long as the place lives.
        let Place { at, .. } = unsafe { Enter::enter(std::ptr::from_mut(at)) };
        Place { at, lives: PhantomData }
    }

    #[allow(unsafe_code, reason = "pointers of this test")]
    fn null<T: 'static>() -> Place<'static, T> {
        // SAFETY: null.
        unsafe { Enter::enter(std::ptr::null_mut::<T>()) }
    }

    #[test]
    fn null_is_an_invalid_argument() {
        assert_eq!(null::<c_uint>().put(1), Err(Code::INVALID_ARGUMENT));
        assert_eq!(null::<c_uint>().get(), Err(Code::INVALID_ARGUMENT));
        assert_eq!(null().text(10, "x"), Err(Code::INVALID_ARGUMENT));
    }

    #[test]
    fn a_list_says_how_many_there_are() {
        let (mut count, mut items) = (0, [0_u32; 4]);
        assert_eq!(null().list(&place(&mut count), &[1_u32, 2]), Err(Code::INSUFFICIENT_SIZE));
        assert_eq!(count, 2);
        count = 1;
        assert_eq!(place(&mut items[0]).list(&place(&mut count), &[1, 2]), Err(Code::INSUFFICIENT_SIZE));
        assert_eq!((count, items), (2, [0; 4]));
        assert_eq!(null::<c_uint>().list(&place(&mut count), &[]), Ok(()));
        assert_eq!(count, 0);
    }

    #[test]
    fn a_text_that_does_not_fit_is_not_written() {
        let mut one: c_char = 7;
        assert_eq!(place(&mut one).text(1, "x"), Err(Code::INSUFFICIENT_SIZE));
        assert_eq!(one, 7);
        assert_eq!(place(&mut one).text(1, ""), Ok(()));
        assert_eq!(one, 0);
        assert_eq!(array::<4>("abcdef")[3], 0);
    }
}
