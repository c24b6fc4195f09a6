//! Characters that are not what they show.

/// Whether a character commands who shows it: a control character, or one that turns the direction of what stands around it (Unicode's `Bidi_Control`), so that
/// a text looks as another one.
pub fn is_command(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
