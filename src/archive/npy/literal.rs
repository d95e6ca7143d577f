//! Parses the Python literals that occur in `.npy` headers: dicts, lists, tuples, strings, whole
//! numbers, True, False, None.
//!
//! Returns for any input, in time linear in its length, with a bounded stack.

/// How deep values may nest. A structured dtype needs two levels for each level of its fields.
const MAX_DEPTH: usize = 64;

/// How many values a literal may hold. A structured dtype of 50,000 fields has some 200,000. A
/// value takes 32 bytes of memory, and as little as two bytes in the literal.
const MAX_VALUES: usize = 1 << 18;

/// A literal. A string is the text between its quotes, with escapes left as they are: no name of a
/// dtype needs an escape.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Str(&'a str),
    Int(u64),
    Bool(bool),
    None,
    Tuple(Vec<Value<'a>>),
    List(Vec<Value<'a>>),
    Dict(Vec<Item<'a>>),
}

/// A key and its value in a dict.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item<'a> {
    pub key: Value<'a>,
    pub value: Value<'a>,
    /// The source text of the value.
    pub text: &'a str,
}

/// Parses `text`, which must hold one literal and otherwise only white space.
///
/// # Errors
/// A message with the reason and the byte offset.
pub(super) fn parse(text: &str) -> Result<Value<'_>, String> {
    let mut parser = Parser { text, at: 0, values: 0 };
    let value = parser.value(0)?;
    match parser.peek() {
        None => Ok(value),
        Some(_) => Err(parser.error("something follows the literal")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// How many values have been parsed so far.
    values: usize,
}

impl<'a> Parser<'a> {
    fn error(&self, what: &str) -> String {
        format!("{what} at byte {}", self.at)
    }

    /// Skips white space and returns the next byte, which is not consumed.
    fn peek(&mut self) -> Option<u8> {
        let rest = self.text.as_bytes().get(self.at..).unwrap_or_default();
        let space = rest.iter().take_while(|byte| b" \t\r\n\x0c".contains(byte)).count();
        self.at += space;
        rest.get(space).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        if depth > MAX_DEPTH {
            return Err(self.error("it nests too deep"));
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(self.error("it holds too much"));
        }
        match self.peek() {
            Some(b'{') => self.dict(depth),
            Some(b'[') => Ok(Value::List(self.items(b']', depth)?.0)),
            Some(b'(') => {
                let (mut items, has_comma) = self.items(b')', depth)?;
                match items.pop() {
                    Some(only) if items.is_empty() && !has_comma => Ok(only),
                    last => {
                        items.extend(last);
                        Ok(Value::Tuple(items))
                    }
                }
            }
            Some(b'\'' | b'"') => self.string(),
            Some(b'0'..=b'9') => self.number(),
            Some(byte) if byte.is_ascii_alphabetic() => self.word(),
            Some(_) => Err(self.error("no literal starts like this")),
            None => Err(self.error("the literal is cut short")),
        }
    }

    /// Parses values with commas between them up to `close`. Returns them, and whether there was a
    /// comma.
    fn items(&mut self, close: u8, depth: usize) -> Result<(Vec<Value<'a>>, bool), String> {
        self.at += 1;
        let (mut items, mut has_comma) = (Vec::new(), false);
        while !self.take(close) {
            items.push(self.value(depth + 1)?);
            let comma = self.take(b',');
            has_comma |= comma;
            if !comma && self.peek() != Some(close) {
                return Err(self.error("a comma is missing"));
            }
        }
        Ok((items, has_comma))
    }

    fn dict(&mut self, depth: usize) -> Result<Value<'a>, String> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.take(b'}') {
            let key = self.value(depth + 1)?;
            if !self.take(b':') {
                return Err(self.error("a colon is missing"));
            }
            self.peek();
            let start = self.at;
            let value = self.value(depth + 1)?;
            items.push(Item { key, value, text: &self.text[start..self.at] });
            if !self.take(b',') && self.peek() != Some(b'}') {
                return Err(self.error("a comma is missing"));
            }
        }
        Ok(Value::Dict(items))
    }

    fn string(&mut self) -> Result<Value<'a>, String> {
        let quote = self.text.as_bytes()[self.at];
        let start = self.at + 1;
        let mut end = start;
        loop {
            match self.text.as_bytes().get(end) {
                Some(&byte) if byte == quote => break,
                Some(b'\\') => end += 2,
                Some(b'\n') | None => return Err(self.error("a string has no end")),
                Some(_) => end += 1,
            }
        }
        self.at = end + 1;
        self.text.get(start..end).map(Value::Str).ok_or_else(|| self.error("a broken escape"))
    }

    /// Parses a whole number. Python 2 wrote `3L`.
    fn number(&mut self) -> Result<Value<'a>, String> {
        let digits = self.text[self.at..].bytes().take_while(u8::is_ascii_digit).count();
        let number = self.text[self.at..self.at + digits]
            .parse()
            .map_err(|_| self.error("a number of more than 64 bits"))?;
        self.at += digits;
        if self.text.as_bytes().get(self.at) == Some(&b'L') {
            self.at += 1;
        }
        Ok(Value::Int(number))
    }

    /// Parses True, False, None, or a string with a prefix (`u''`, `b''`).
    fn word(&mut self) -> Result<Value<'a>, String> {
        let rest = &self.text[self.at..];
        let len = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let value = match &rest[..len] {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::None,
            "u" | "U" | "b" | "B" if matches!(rest.as_bytes().get(1), Some(b'\'' | b'"')) => {
                self.at += 1;
                return self.string();
            }
            _ => return Err(self.error("a word that is not known")),
        };
        self.at += len;
        Ok(value)
    }
}
