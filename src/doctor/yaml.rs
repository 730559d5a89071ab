//! Reads a document of YAML or JSON, with the tags of CloudFormation in their long form. Time and memory are bounded, whatever the text is.
//!
//! The parser hands over one event after the other, so a document that nests too deeply, or that grows by aliases, is refused as soon as it
//! does. libyaml cannot do this: it reads the whole document first, in a time that is quadratic in the number of open brackets.
//!
//! The parser is strict about the indentation of what is in brackets or quotation marks, and AWS, which uses libyaml, is not. Such lines are
//! moved to the right, where their indentation has no meaning.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use serde_json::{Map, Value as Json};

/// The largest template that CloudFormation takes, in bytes
/// (<https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html>).
pub const BYTES_MAX: usize = 1 << 20;
/// Templates nest about 20 deep. `serde_json` stops at 127.
const DEPTH_MAX: usize = 100;
/// How large a document may become by its aliases: nodes and bytes of text. Without aliases it cannot exceed twice its own size.
const SIZE_MAX: usize = 4 * BYTES_MAX;
/// How many bytes may be parsed in all, when lines are moved and the document is parsed again.
const PARSED_MAX: usize = 16 * BYTES_MAX;

/// Reads a document.
///
/// # Errors
/// What is wrong with it, in words that read on after its name.
pub fn read(text: &str) -> Result<Json, String> {
    if text.len() > BYTES_MAX {
        return Err(format!("is longer than {BYTES_MAX} bytes, which CloudFormation refuses"));
    }
    let text = text.trim_start_matches('\u{feff}');
    // Valid JSON is common, and its tabs are not valid YAML.
    if let Ok(json) = serde_json::from_str(text) {
        return Ok(json);
    }
    let mut text = text.to_owned();
    let mut parsed = 0;
    let mut first = None;
    loop {
        parsed += text.len();
        match Reader::new(&text).document() {
            Ok(document) => return Ok(document),
            Err(Wrong::Document(problem)) => return Err(problem),
            Err(Wrong::Syntax(error)) => {
                let moved = moved_right(&text, &error).filter(|_| parsed < PARSED_MAX);
                // Later errors may be about positions that are not in the file.
                let said = first.get_or_insert_with(|| {
                    let (line, column) = (error.marker().line(), error.marker().col() + 1);
                    format!("is neither YAML nor JSON: {} at line {line} column {column}", error.info())
                });
                match moved {
                    Some(moved) => text = moved,
                    None => return Err(said.clone()),
                }
            }
        }
    }
}

/// Why a document is refused.
enum Wrong {
    /// It is not YAML.
    Syntax(ScanError),
    /// It is YAML, but not a document that can be read.
    Document(String),
}

/// A node that is being read.
enum Open {
    List(Vec<Json>),
    /// With the name of the next member, once it was read, and the members to be merged.
    Members(Map<String, Json>, Option<String>, Vec<Json>),
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// Open nodes, each with its tag and its anchor.
    open: Vec<(Open, Option<String>, usize)>,
    anchored: BTreeMap<usize, Json>,
    size: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        Self { parser: Parser::new_from_str(text), open: Vec::new(), anchored: BTreeMap::new(), size: 0 }
    }

    fn document(mut self) -> Result<Json, Wrong> {
        let mut root = None;
        while let Some(event) = self.parser.next_event() {
            let (event, _) = event.map_err(Wrong::Syntax)?;
            let node = match event {
                Event::SequenceStart(anchor, tag) => {
                    self.open(Open::List(Vec::new()), tag.as_deref(), anchor)?;
                    continue;
                }
                Event::MappingStart(anchor, tag) => {
                    self.open(Open::Members(Map::new(), None, Vec::new()), tag.as_deref(), anchor)?;
                    continue;
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.grow(1 + text.len())?;
                    let tag = tag.as_deref();
                    let plain = style == ScalarStyle::Plain && tag.is_none_or(|tag| tag.is_yaml_core_schema() && tag.suffix != "str");
                    let scalar = if plain { scalar(&text) } else { text.into_owned().into() };
                    self.kept(tagged(tag.and_then(named).as_deref(), scalar), anchor)
                }
                Event::SequenceEnd | Event::MappingEnd => {
                    let Some((open, tag, anchor)) = self.open.pop() else { continue };
                    self.kept(tagged(tag.as_deref(), open.closed()), anchor)
                }
                Event::Alias(anchor) => {
                    let node = self.anchored.get(&anchor).ok_or_else(|| document("has an alias of a node that contains it"))?.clone();
                    self.grow(size_of(&node))?;
                    node
                }
                Event::DocumentStart(_) if root.is_some() => return Err(document("has several documents")),
                _ => continue,
            };
            match self.open.last_mut() {
                None => root = Some(node),
                Some((open, ..)) => open.add(node)?,
            }
        }
        Ok(root.unwrap_or_default())
    }

    fn open(&mut self, node: Open, tag: Option<&Tag>, anchor: usize) -> Result<(), Wrong> {
        if self.open.len() == DEPTH_MAX {
            return Err(document(format!("nests more than {DEPTH_MAX} deep")));
        }
        self.open.push((node, tag.and_then(named), anchor));
        self.grow(1)
    }

    fn grow(&mut self, by: usize) -> Result<(), Wrong> {
        self.size += by;
        if self.size > SIZE_MAX { Err(document("becomes too large by its aliases")) } else { Ok(()) }
    }

    fn kept(&mut self, node: Json, anchor: usize) -> Json {
        if anchor > 0 {
            self.anchored.insert(anchor, node.clone());
        }
        node
    }
}

impl Open {
    fn add(&mut self, node: Json) -> Result<(), Wrong> {
        match self {
            Self::List(values) => values.push(node),
            Self::Members(members, name, merged) => match name.take() {
                None => {
                    let key = match node {
                        Json::String(text) => text,
                        Json::Array(_) | Json::Object(_) => return Err(document("has a key that is not a text")),
                        scalar => scalar.to_string(),
                    };
                    if members.contains_key(&key) {
                        return Err(document(format!("has the key `{key}` twice in one object")));
                    }
                    *name = Some(key);
                }
                // `aws cloudformation package` merges before it uploads.
                Some(name) if name == "<<" => merged.push(node),
                Some(name) => _ = members.insert(name, node),
            },
        }
        Ok(())
    }

    fn closed(self) -> Json {
        let (mut members, merged) = match self {
            Self::List(values) => return values.into(),
            Self::Members(members, _, merged) => (members, merged),
        };
        let merged = merged.into_iter().flat_map(|node| if let Json::Array(nodes) = node { nodes } else { vec![node] });
        for (name, value) in merged.filter_map(|node| if let Json::Object(members) = node { Some(members) } else { None }).flatten() {
            members.entry(name).or_insert(value);
        }
        members.into()
    }
}

fn document(problem: impl Into<String>) -> Wrong {
    Wrong::Document(problem.into())
}

/// Its size, in nodes and bytes of text.
pub fn size_of(node: &Json) -> usize {
    match node {
        Json::Array(values) => 1 + values.iter().map(size_of).sum::<usize>(),
        Json::Object(members) => 1 + members.iter().map(|(name, value)| 1 + name.len() + size_of(value)).sum::<usize>(),
        Json::String(text) => 1 + text.len(),
        _ => 1,
    }
}

/// The name of a tag of CloudFormation, without its exclamation mark.
fn named(tag: &Tag) -> Option<String> {
    (!tag.is_yaml_core_schema() && !tag.suffix.is_empty()).then(|| tag.suffix.clone())
}

/// A node under its tag: `!Sub x` is `{"Fn::Sub": "x"}`.
fn tagged(tag: Option<&str>, node: Json) -> Json {
    match tag {
        None => node,
        Some(name @ ("Ref" | "Condition")) => Json::Object(Map::from_iter([(name.to_owned(), node)])),
        Some(name) => Json::Object(Map::from_iter([(format!("Fn::{name}"), node)])),
    }
}

/// A plain scalar: a number only as JSON writes it, so that an account's id keeps its zeros.
fn scalar(text: &str) -> Json {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Json::Null,
        "true" | "True" | "TRUE" => true.into(),
        "false" | "False" | "FALSE" => false.into(),
        text => match serde_json::from_str(text) {
            Ok(number @ Json::Number(_)) => number,
            _ => text.into(),
        },
    }
}

/// Further to the right than any template is indented.
const MARGIN: &str = "                                                                ";

/// The text with the lines that an error of indentation is about moved to the right; `None` if it is another error, or does not help.
fn moved_right(text: &str, error: &ScanError) -> Option<String> {
    let line = error.marker().line();
    let start = text.split_inclusive('\n').take(line.checked_sub(1)?).map(str::len).sum::<usize>();
    match error.info() {
        "invalid indentation" if !text[start..].starts_with(MARGIN) => Some(format!("{}{MARGIN}{}", &text[..start], &text[start..])),
        "invalid indentation in quoted scalar" => {
            let column = text[start..].char_indices().nth(error.marker().col())?.0;
            let (before, quoted) = text.split_at(start + column);
            let end = end_of_quoted(quoted)?;
            let moved = quoted[..end].replace('\n', &format!("\n{MARGIN}"));
            (!quoted[..end].contains(&format!("\n{MARGIN}"))).then(|| format!("{before}{moved}{}", &quoted[end..]))
        }
        _ => None,
    }
}

/// Where a text in quotation marks ends.
fn end_of_quoted(text: &str) -> Option<usize> {
    let mark = text.chars().next().filter(|mark| ['"', '\''].contains(mark))?;
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' if mark == '"' => _ = characters.next(),
            // A doubled apostrophe is one in the text.
            '\'' if mark == '\'' && characters.peek().is_some_and(|(_, next)| *next == '\'') => _ = characters.next(),
            character if character == mark => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;

    #[test]
    fn tags_scalars_and_merges_are_read_as_aws_reads_them() {
        let read = |text: &str| read(text).expect("YAML");
        assert_eq!(
            read("a: !GetAtt Table.StreamArn\nb: !Ref AWS::Region\n"),
            json!({"a": {"Fn::GetAtt": "Table.StreamArn"}, "b": {"Ref": "AWS::Region"}})
        );
        assert_eq!(read("a: !Join ['', [x, !Sub '${y}']]"), json!({"a": {"Fn::Join": ["", ["x", {"Fn::Sub": "${y}"}]]}}));
        assert_eq!(
            read("a: [012345678901, 12, -1.5, '12', !!str 12, 0x10, yes, on, true, ~, ]"),
            json!({"a": ["012345678901", 12, -1.5, "12", "12", "0x10", "yes", "on", true, null]})
        );
        assert_eq!(
            read("a: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}\nc: {<<: [*x, {m: 4}]}"),
            json!({"a": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}, "c": {"k": 1, "l": 2, "m": 4}})
        );
        assert_eq!(read("{\n\t\"a\":\t[1,\n\t2]\n}"), json!({"a": [1, 2]}), "JSON with tabs");
        assert_eq!(read("\u{feff}a: 1\n"), json!({"a": 1}));
        assert_eq!(read(""), Json::Null);
    }

    #[test]
    fn indentation_in_brackets_and_quotation_marks_has_no_meaning() {
        let read = |text: &str| read(text).expect("YAML");
        assert_eq!(read("a:\n    b: [\n      x\n  ]\n    c: d\n"), json!({"a": {"b": ["x"], "c": "d"}}));
        assert_eq!(read("a:\n    b: {\n  x: y,\nz: w\n}\n    c: [\n]\n"), json!({"a": {"b": {"x": "y", "z": "w"}, "c": []}}));
        assert_eq!(read("a:\n  b: '{\n\"x\": [''\n]\n}'\n  c: d\n"), json!({"a": {"b": "{ \"x\": ['' ] }".replace("''", "'"), "c": "d"}}));
        assert_eq!(read("a:\n  b: \"{\nfoo \\\"\n}\"\n"), json!({"a": {"b": "{ foo \" }"}}));
        let error = super::read("a:\n  b: [\n]\nc: d: e\n").expect_err("it is not YAML");
        assert_eq!(error, "is neither YAML nor JSON: invalid indentation at line 3 column 1");
    }

    #[test]
    fn no_text_takes_long_or_much_memory() {
        let repeated = |unit: &str| unit.repeat(BYTES_MAX / unit.len());
        let mut texts: Vec<_> = [
            "[", "{", "- ", "? ", "{a: ", "[[", "\"", "'", "|\n", "# \n", " ", "\t", "a\n", "- a\n", "---\n", "&a ", "!a ", "*a ", "\\",
            ">\n\n", "]", "[\n]\n",
        ]
        .map(repeated)
        .into();
        // Aliases: of aliases, and many of one large node.
        texts.push((1..30).fold("a0: &a0 [x, x]\n".to_owned(), |text, at| format!("{text}a{at}: &a{at} [*a{}, *a{}]\n", at - 1, at - 1)));
        texts.push(format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(200_000), "*a,".repeat(100_000)));
        texts.push(format!("a: &a [{}]\n", "*a,".repeat(100_000)));
        texts.push(format!("a: &a {}\nb: [{}]\n", "x".repeat(500_000), "*a,".repeat(100_000)));
        // Lines that have to be moved one by one.
        texts.push(format!("a:\n  b: [\n{}]\n", "x,\n".repeat(200_000)));
        texts.push(format!("a:\n{}", "  b: [\n]\n".repeat(1_000)));
        texts.push(format!("a:\n{}", "  b: '\n'\n".repeat(1_000)));
        texts.push("[".repeat(100) + &"]".repeat(100) + "x");
        for text in texts {
            let begun = Instant::now();
            let start: String = text.chars().take(20).collect();
            let refused = read(&text).err();
            // 60 s and more is what a quadratic parser takes; this is generous for a debug build on a busy machine.
            assert!(begun.elapsed() < Duration::from_secs(40), "{start:?}: {:?}", begun.elapsed());
            assert!(refused.is_none_or(|problem| problem.len() < 200), "{start:?}");
        }
        assert!(read(&"a".repeat(BYTES_MAX + 1)).expect_err("it is too long").contains("longer than"));
        assert_eq!(read("a: 1\n---\nb: 2\n").expect_err("two"), "has several documents");
        assert_eq!(read("a: 1\na: 2\n").expect_err("twice"), "has the key `a` twice in one object");
    }
}
