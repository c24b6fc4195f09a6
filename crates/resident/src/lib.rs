//! Gives back memory that a process holds and does not need.
//!
//! The kernel maps a program's file in pieces around each page that is touched, and never takes a piece back from a process while there is
//! memory to spare. A long-lived program keeps all that its start has touched: parsing of arguments, handshakes, enrolment. What is
//! given back here is read again from the page cache when it is next needed, a piece at a time, by the kernel alone.
//!
//! Of what is shipped the one crate with `unsafe`: two system calls, each with the reason why nothing can go wrong. See
//! docs/adr/0014-resident.md.

use std::io;

/// Gives back what the process holds of its program's file without having written to it (code and constants), and the free pages of its
/// heap. Answers how many bytes of address space of the file were given back; they need not all have been resident.
///
/// Costs some hundred microseconds, and then a page fault for each piece that is needed again. Nothing that anybody can see
/// changes but memory and time. On another system than Linux nothing happens.
///
/// # Errors
/// `/proc` cannot be read, or the kernel refuses.
pub fn give_back() -> io::Result<u64> {
    #[cfg(target_os = "linux")]
    {
        linux::trim_heap();
        linux::release_program()
    }
    #[cfg(not(target_os = "linux"))]
    Ok(0)
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs::{self, File};
    use std::io::{self, BufReader};
    use std::ops::Range;

    use rustix::mm::{Advice, madvise};

    /// The allocator of glibc keeps free pages in the midst of its heap; others have no such call.
    #[cfg_attr(target_env = "gnu", allow(unsafe_code, reason = "a function of the C library"))]
    pub(super) fn trim_heap() {
        // SAFETY: takes no pointer, may be called by any thread at any time, and touches free memory only (malloc_trim(3)).
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
    }

    #[allow(unsafe_code, reason = "a system call on pages that nobody writes")]
    pub(super) fn release_program() -> io::Result<u64> {
        let program = fs::read_link("/proc/self/exe")?;
        let smaps = BufReader::new(File::open("/proc/self/smaps")?);
        let mut released = 0;
        for range in untouched(smaps, program.as_os_str().as_encoded_bytes())? {
            let length = range.end - range.start;
            // SAFETY: a segment of the program itself, private, which nobody may write to and of which the process has no page of its
            // own. So each of its pages is the file's, and is read from there again at the next access, as after reclaim by the kernel,
            // which may do the same at any time. The segments of the program are the kernel's from `execve` and the loader is done with
            // them before `main`: they are neither moved nor made writable afterwards, as those of a library that is being loaded are.
            unsafe { madvise(range.start as *mut _, length, Advice::LinuxDontNeed) }?;
            released += length as u64;
        }
        Ok(released)
    }

    /// The mappings of `/proc/PID/smaps` (proc(5)) of the file `program` that are private, not writable, and without a page of the process's
    /// own: constants that the loader has relocated are its own.
    pub(super) fn untouched(smaps: impl io::BufRead, program: &[u8]) -> io::Result<Vec<Range<usize>>> {
        let (mut found, mut candidate) = (Vec::new(), None);
        for line in smaps.split(b'\n') {
            let line = line?;
            if let Some((range, permissions, path)) = head(&line) {
                let is_read_only = matches!(permissions, b"r-xp" | b"r--p");
                candidate = (is_read_only && path == program).then_some(range);
            } else if let Some(own) = line.strip_prefix(b"Anonymous:")
                && let Some(range) = candidate.take()
                && own.trim_ascii() == b"0 kB"
            {
                found.push(range);
            }
        }
        Ok(found)
    }

    /// The head line of a mapping, `55d0-55d1 r-xp 00000000 fe:00 1234   /usr/bin/true`: addresses, permissions and path.
    fn head(line: &[u8]) -> Option<(Range<usize>, &[u8], &[u8])> {
        let mut words = line.splitn(6, |byte| *byte == b' ');
        let (start, end) = std::str::from_utf8(words.next()?).ok()?.split_once('-')?;
        let permissions = words.next()?;
        let path = words.nth(3)?.trim_ascii();
        let address = |text| usize::from_str_radix(text, 16).ok();
        Some((address(start)?..address(end)?, permissions, path))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        const SMAPS: &str = "\
1000-2000 r--p 00000000 fe:00 11                         /usr/bin/an agent
Rss:                   4 kB
Anonymous:             0 kB
2000-3000 r-xp 00001000 fe:00 11                         /usr/bin/an agent
Anonymous:             0 kB
3000-4000 r--p 00002000 fe:00 11                         /usr/bin/an agent
Anonymous:             4 kB
4000-5000 rw-p 00003000 fe:00 11                         /usr/bin/an agent
Anonymous:             0 kB
5000-6000 rw-p 00000000 00:00 0                          [heap]
Anonymous:             0 kB
6000-7000 r--s 00000000 fe:00 11                         /usr/bin/an agent
Anonymous:             0 kB
7000-8000 r-xp 00000000 00:00 0                          [vdso]
Anonymous:             0 kB
8000-9000 r--p 00000000 00:00 0
Anonymous:             0 kB
9000-a000 r-xp 00000000 fe:00 13                         /usr/lib/libc.so.6
Anonymous:             0 kB
";

        #[test]
        fn only_what_nobody_wrote_of_the_program_is_given_back() {
            let found = untouched(SMAPS.as_bytes(), b"/usr/bin/an agent").unwrap();
            assert_eq!(found, [0x1000..0x2000, 0x2000..0x3000]);
            assert_eq!(untouched(SMAPS.as_bytes(), b"").unwrap(), []);
        }

        #[test]
        fn what_is_no_mapping_is_passed_over() {
            let text = b"Anonymous: 0 kB\nnonsense\n\nzz-11 r-xp 0 0 0 /a\nAnonymous: 0 kB\n\xff-\xff r-xp 0 0 0 /a\n";
            assert_eq!(untouched(&text[..], b"/a").unwrap(), []);
        }
    }
}
