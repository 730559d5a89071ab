//! JSON that keeps its members in their order and its numbers with all their digits.

use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// One JSON object in a line.
pub fn line(object: &impl serde::Serialize) -> serde_json::Result<String> {
    serde_json::to_string(object)
}

/// A document in one line, with all digits of its numbers; as a text if it is not JSON.
pub fn document(text: &str) -> serde_json::Result<Box<RawValue>> {
    // In JSON, line ends stand only between tokens.
    serde_json::from_str(&text.replace(['\n', '\r'], " ")).or_else(|_| serde_json::value::to_raw_value(text))
}

/// The JSON in lines, one for each member; `None` if the text is not JSON.
pub fn indented(json: &str) -> Option<String> {
    serde_json::from_str::<IgnoredAny>(json).ok()?;
    let (mut text, mut depth, mut in_string, mut escaped) = (String::with_capacity(2 * json.len()), 0, false, false);
    let line = |text: &mut String, depth: usize| write!(text, "\n{:1$}", "", 2 * depth).expect("a String takes all");
    let mut left = json.chars().peekable();
    while let Some(char) = left.next() {
        if in_string {
            in_string = escaped || char != '"';
            escaped = !escaped && char == '\\';
            text.push(char);
            continue;
        }
        match char {
            ' ' | '\t' | '\n' | '\r' => {}
            '{' | '[' => {
                text.push(char);
                while left.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = left.next_if(|next| matches!(next, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    line(&mut text, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut text, depth);
                text.push(char);
            }
            ',' => {
                text.push(',');
                line(&mut text, depth);
            }
            ':' => text.push_str(": "),
            _ => {
                in_string = char == '"';
                text.push(char);
            }
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_numbers_their_digits() {
        let json = r#"{"b":[1.00000000000000000000000000000000000001,{}, [ ]],"a":{"x":"a\"{,\\","y":null}}"#;
        let lines = "{
  \"b\": [
    1.00000000000000000000000000000000000001,
    {},
    []
  ],
  \"a\": {
    \"x\": \"a\\\"{,\\\\\",
    \"y\": null
  }
}";
        assert_eq!(indented(json).as_deref(), Some(lines));
        assert_eq!(indented(lines).as_deref(), Some(lines), "indented JSON stays unchanged");
    }

    #[test]
    fn a_scalar_is_json_and_a_truncated_text_is_not() {
        assert_eq!(indented(" 5 ").as_deref(), Some("5"));
        assert_eq!(indented(r#"{"a":"#), None);
    }
}
