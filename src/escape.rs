//! What is printed or logged never commands the terminal that shows it.
//!
//! Ids, reasons and data come from events, so from strangers. A character that moves the cursor, ends a line, sets the title or turns the
//! direction of text is written out as `\u001b`: JSON's own spelling, so that a text may be JSON or not. Three places write, and each of
//! them escapes all that it is given: the command line's standard output, its standard error output, and the Lambda's log.

use std::fmt::Write as _;

/// A text in one line.
#[cfg(feature = "cli")]
pub fn line(text: &str) -> String {
    escaped(text, |_| false)
}

/// A text in lines that are meant.
pub fn lines(text: &str) -> String {
    escaped(text, |char| char == '\n')
}

fn escaped(text: &str, is_meant: impl Fn(char) -> bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            _ if is_meant(char) || !is_control(char) => shown.push(char),
            '\n' => shown.push_str(r"\n"),
            '\r' => shown.push_str(r"\r"),
            '\t' => shown.push_str(r"\t"),
            _ => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    write!(shown, r"\u{unit:04x}").expect("a String takes all");
                }
            }
        }
    }
    shown
}

/// Whether a character moves the cursor, ends a line, changes the direction of the text after it, or hides text: control characters,
/// Unicode's bidirectional controls and separators, annotations, and tags.
fn is_control(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(char, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_written_out_and_letters_of_all_scripts_stay() {
        assert_eq!(line("a\r\n\t\u{1b}[2J\u{9b}\u{7f}\u{202e}\u{e0041}"), r"a\r\n\t\u001b[2J\u009b\u007f\u202e\udb40\udc41");
        assert_eq!(line(r#"é日本\"'👩‍👩‍👧"#), r#"é日本\"'👩‍👩‍👧"#, "joiners are letters' own");
        assert_eq!(lines("a\nb\r\n\u{7}"), "a\nb\\r\n\\u0007");
    }

    #[test]
    fn json_means_the_same_when_it_is_escaped() {
        let odd = "\u{9b}2J\u{7f}\u{202e}ä\u{1b}\n\r\t\u{e0041}\u{2028}";
        let json = serde_json::to_string(odd).expect("serialises");
        assert_eq!(serde_json::from_str::<String>(&line(&json)).expect("JSON"), odd);
    }

    #[test]
    fn escaping_twice_changes_nothing() {
        let once = line("\u{1b}\n\u{202e}\\");
        assert_eq!((line(&once), lines(&once)), (once.clone(), once));
    }
}
