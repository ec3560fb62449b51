//! Pickles, read as data: a machine that builds a tree of values and runs nothing.
//!
//! A pickle is a program for a stack machine, and its `REDUCE` calls whatever Python function it names. Here a call is a
//! value like any other, [`Value::Call`]: it says what would have been called, and the reader decides what that means.
//! Functions and classes must be on the reader's list of names; another name ends the reading at once.
//!
//! Values live in one arena and refer to each other by number, so that neither depth nor cycles can hurt. The number of
//! values is limited, and lengths are held against what is left of the file.

use crate::error::{Error, Result};
use std::collections::HashMap;

/// Most values that a pickle may make or hold on its stack: a checkpoint of ten thousand tensors makes half a million.
const MOST_VALUES: usize = 4 << 20;

/// The longest pickle that is read, in bytes. The numbers of a checkpoint are not in it.
const LONGEST: usize = 64 << 20;

/// The number of a value in its [`Pickle`].
pub type Id = u32;

/// A value that a pickle describes.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// A whole number of at most 64 bits.
    Int(i64),
    /// A longer whole number, lowest byte first.
    Big(&'a [u8]),
    /// A floating-point number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A tuple.
    Tuple(Vec<Id>),
    /// A list or a set.
    List(Vec<Id>),
    /// A dictionary or an `OrderedDict`, in the order of the pickle.
    Dict(Vec<(Id, Id)>),
    /// A function or class: its module and name.
    Name(&'a str, &'a str),
    /// Something kept outside the pickle; the value is its id.
    Outside(Id),
    /// What a call would have returned.
    Call {
        /// The function or class.
        function: Id,
        /// A tuple.
        arguments: Id,
    },
    /// An object of a class, made without a call.
    Object {
        /// The class.
        class: Id,
        /// Its attributes.
        state: Option<Id>,
    },
}

/// The values of one pickle.
#[derive(Debug)]
pub struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: Id,
    /// How many bytes the pickle takes.
    pub len: usize,
}

impl<'a> Pickle<'a> {
    /// Reads the pickle at the start of `bytes`. `allowed` says which functions and classes may be named.
    ///
    /// # Errors
    /// If the pickle is damaged, too large, uses what no checkpoint uses, or names something that is not allowed.
    pub fn read(bytes: &'a [u8], allowed: impl Fn(&str, &str) -> bool) -> Result<Self> {
        let bytes = &bytes[..bytes.len().min(LONGEST)];
        let mut machine = Machine {
            bytes,
            at: 0,
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            copied: 0,
        };
        let root = machine.run(&allowed).map_err(|e| e.at(format!("byte {} of the pickle", machine.at)))?;
        Ok(Self { values: machine.values, root, len: machine.at })
    }

    /// The value that the pickle is about.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// A value by its number.
    pub fn get(&self, id: Id) -> &Value<'a> {
        &self.values[id as usize]
    }

    /// All values, in the order in which they were made.
    pub fn values(&self) -> impl Iterator<Item = &Value<'a>> {
        self.values.iter()
    }

    /// The value under a key, if this is a dictionary with it.
    pub fn item(&self, dict: &Value<'a>, key: &str) -> Option<&Value<'a>> {
        let Value::Dict(items) = dict else { return None };
        let (_, value) = items.iter().rev().find(|(name, _)| *self.get(*name) == Value::Text(key))?;
        Some(self.get(*value))
    }

    /// The parts of a tuple or list.
    pub fn parts(&self, value: &Value<'a>) -> Option<Vec<&Value<'a>>> {
        match value {
            Value::Tuple(parts) | Value::List(parts) => Some(parts.iter().map(|&id| self.get(id)).collect()),
            _ => None,
        }
    }

    /// The full name of the function and the arguments, if this is a call.
    pub fn call(&self, value: &Value<'a>) -> Option<(String, Vec<&Value<'a>>)> {
        let Value::Call { function, arguments } = value else { return None };
        let Value::Name(module, name) = self.get(*function) else { return None };
        Some((format!("{module}.{name}"), self.parts(self.get(*arguments))?))
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// How many items of lists were copied into dictionaries.
    copied: usize,
}

impl<'a> Machine<'a> {
    fn run(&mut self, allowed: &dyn Fn(&str, &str) -> bool) -> Result<Id> {
        loop {
            // The names are those of Python's pickletools.
            match self.byte()? {
                // PROTO, FRAME: nothing to know.
                0x80 => drop(self.take(1)?),
                0x95 => drop(self.take(8)?),
                b'.' => return self.pop(), // STOP
                b'(' => {
                    // MARK
                    self.marks.push(self.stack.len());
                    self.check_size()?;
                }
                b'0' => drop(self.pop()?),        // POP
                b'1' => drop(self.since_mark()?), // POP_MARK
                b'2' => {
                    // DUP
                    let top = self.top()?;
                    self.push_id(top)?;
                }
                b'N' => self.push(Value::None)?,        // NONE
                0x88 => self.push(Value::Bool(true))?,  // NEWTRUE
                0x89 => self.push(Value::Bool(false))?, // NEWFALSE
                b'J' => {
                    // BININT
                    let number = i32::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                b'K' => {
                    // BININT1
                    let number = self.byte()?;
                    self.push(Value::Int(number.into()))?;
                }
                b'M' => {
                    // BININT2
                    let number = u16::from_le_bytes(self.array()?);
                    self.push(Value::Int(number.into()))?;
                }
                0x8a => {
                    // LONG1
                    let bytes = self.sized(1)?;
                    self.push(long(bytes))?;
                }
                0x8b => {
                    // LONG4
                    let bytes = self.sized(4)?;
                    self.push(long(bytes))?;
                }
                b'G' => {
                    // BINFLOAT
                    let number = f64::from_be_bytes(self.array()?);
                    self.push(Value::Float(number))?;
                }
                // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8
                0x8c => self.text(1)?,
                b'X' => self.text(4)?,
                0x8d => self.text(8)?,
                // SHORT_BINSTRING, BINSTRING: Python 2's strings, which were either.
                b'U' => self.string(1)?,
                b'T' => self.string(4)?,
                // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8
                b'C' => self.binary(1)?,
                b'B' => self.binary(4)?,
                0x8e | 0x96 => self.binary(8)?,
                b']' | 0x8f => self.push(Value::List(Vec::new()))?, // EMPTY_LIST, EMPTY_SET
                b'}' => self.push(Value::Dict(Vec::new()))?,        // EMPTY_DICT
                b')' => self.push(Value::Tuple(Vec::new()))?,       // EMPTY_TUPLE
                b't' => {
                    // TUPLE
                    let parts = self.since_mark()?;
                    self.push(Value::Tuple(parts))?;
                }
                n @ 0x85..=0x87 => {
                    // TUPLE1, TUPLE2, TUPLE3
                    let parts = self.pop_many(usize::from(n - 0x84))?;
                    self.push(Value::Tuple(parts))?;
                }
                b'l' | 0x91 => {
                    // LIST, FROZENSET
                    let parts = self.since_mark()?;
                    self.push(Value::List(parts))?;
                }
                b'd' => {
                    // DICT
                    let parts = self.since_mark()?;
                    let dict = pairs(&parts)?;
                    self.push(Value::Dict(dict))?;
                }
                b'a' => {
                    // APPEND
                    let item = self.pop()?;
                    self.list()?.push(item);
                }
                b'e' | 0x90 => {
                    // APPENDS, ADDITEMS
                    let items = self.since_mark()?;
                    self.list()?.extend(items);
                }
                b's' => {
                    // SETITEM
                    let item = self.pop_many(2)?;
                    self.dict()?.push((item[0], item[1]));
                }
                b'u' => {
                    // SETITEMS
                    let items = pairs(&self.since_mark()?)?;
                    self.dict()?.extend(items);
                }
                b'q' => {
                    // BINPUT
                    let key = self.byte()?;
                    self.remember(key.into())?;
                }
                b'r' => {
                    // LONG_BINPUT
                    let key = u32::from_le_bytes(self.array()?);
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u32)?, // MEMOIZE
                b'h' => {
                    // BINGET
                    let key = self.byte()?;
                    self.recall(key.into())?;
                }
                b'j' => {
                    // LONG_BINGET
                    let key = u32::from_le_bytes(self.array()?);
                    self.recall(key)?;
                }
                b'c' => {
                    // GLOBAL
                    let (module, name) = (self.line()?, self.line()?);
                    self.name(module, name, allowed)?;
                }
                0x93 => {
                    // STACK_GLOBAL
                    let parts = self.pop_many(2)?;
                    let text = |id: Id| match &self.values[id as usize] {
                        Value::Text(text) => Ok(*text),
                        _ => Err(Error::run("a function is named by something that is no text")),
                    };
                    let (module, name) = (text(parts[0])?, text(parts[1])?);
                    self.name(module, name, allowed)?;
                }
                b'R' => {
                    // REDUCE
                    let parts = self.pop_many(2)?;
                    let value = self.called(parts[0], parts[1])?;
                    self.push(value)?;
                }
                0x81 => {
                    // NEWOBJ
                    let parts = self.pop_many(2)?;
                    self.push(Value::Object { class: parts[0], state: None })?;
                }
                b'b' => {
                    // BUILD: attributes. Those of dictionaries and tensors carry no numbers.
                    let attributes = self.pop()?;
                    let top = self.top()?;
                    if let Value::Object { state, .. } = &mut self.values[top as usize] {
                        *state = Some(attributes);
                    }
                }
                b'Q' => {
                    // BINPERSID
                    let id = self.pop()?;
                    self.push(Value::Outside(id))?;
                }
                other => {
                    let printable = if other.is_ascii_graphic() { char::from(other) } else { '?' };
                    return Err(Error::run(format!("no checkpoint uses the instruction {other:#04x} ({printable})")));
                }
            }
        }
    }

    /// What a call makes: a dictionary if it is one, else a record of the call.
    fn called(&mut self, function: Id, arguments: Id) -> Result<Value<'a>> {
        match (&self.values[function as usize], &self.values[arguments as usize]) {
            (Value::Name("collections", "OrderedDict"), Value::Tuple(arguments)) => {
                let Some(&items) = arguments.first() else { return Ok(Value::Dict(Vec::new())) };
                // Python 2 wrote the items as a list of pairs.
                let Value::List(items) = &self.values[items as usize] else {
                    return Err(Error::run("an OrderedDict is made of something that is no list"));
                };
                let pair = |&id: &Id| match &self.values[id as usize] {
                    Value::Tuple(pair) | Value::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
                    _ => Err(Error::run("an OrderedDict is made of something that is no pair")),
                };
                let dict: Vec<(Id, Id)> = items.iter().map(pair).collect::<Result<_>>()?;
                // The same list may be used again and again.
                self.copied += dict.len();
                self.check_size()?;
                Ok(Value::Dict(dict))
            }
            (Value::Name(..), Value::Tuple(_)) => Ok(Value::Call { function, arguments }),
            _ => Err(Error::run("a call of something that is no function")),
        }
    }

    fn name(&mut self, module: &'a str, name: &'a str, allowed: &dyn Fn(&str, &str) -> bool) -> Result<()> {
        if allowed(module, name) {
            return self.push(Value::Name(module, name));
        }
        let shown = format!("{module}.{name}").chars().take(120).collect::<String>();
        Err(Error::run(format!(
            "the file wants Python to use `{}`, which is no part of a tensor",
            shown.escape_debug()
        ))
        .hint("nothing was run; do not open this file with a program that unpickles it unless you trust who made it"))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(Error::run)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|&end| end <= self.bytes.len());
        let end =
            end.ok_or_else(|| Error::run(if self.bytes.len() == LONGEST { "too long" } else { "it ends too early" }))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    /// Bytes behind their length, which takes `width` bytes.
    fn sized(&mut self, width: usize) -> Result<&'a [u8]> {
        let mut length = [0; 8];
        length[..width].copy_from_slice(self.take(width)?);
        self.take(usize::try_from(u64::from_le_bytes(length)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a str> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(4096).position(|&byte| byte == b'\n');
        let end = end.ok_or_else(|| Error::run("a name without an end"))?;
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(Error::run)
    }

    fn text(&mut self, width: usize) -> Result<()> {
        let bytes = self.sized(width)?;
        self.push(Value::Text(std::str::from_utf8(bytes).map_err(Error::run)?))
    }

    fn string(&mut self, width: usize) -> Result<()> {
        let bytes = self.sized(width)?;
        self.push(std::str::from_utf8(bytes).map_or(Value::Bytes(bytes), Value::Text))
    }

    fn binary(&mut self, width: usize) -> Result<()> {
        let bytes = self.sized(width)?;
        self.push(Value::Bytes(bytes))
    }

    fn push(&mut self, value: Value<'a>) -> Result<()> {
        let id = self.values.len() as Id;
        self.values.push(value);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<()> {
        self.stack.push(id);
        self.check_size()
    }

    fn check_size(&self) -> Result<()> {
        let sizes = [self.values.len(), self.stack.len(), self.marks.len(), self.memo.len(), self.copied];
        match sizes.into_iter().max().unwrap_or(0) {
            0..MOST_VALUES => Ok(()),
            _ => Err(Error::run("more values than a checkpoint has")),
        }
    }

    /// The floor of the stack: what lies below the last mark is out of reach.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn pop(&mut self) -> Result<Id> {
        if self.stack.len() <= self.floor() {
            return Err(Error::run("it takes from an empty stack"));
        }
        self.stack.pop().ok_or_else(|| Error::run("it takes from an empty stack"))
    }

    fn top(&self) -> Result<Id> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| Error::run("it takes from an empty stack"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>> {
        let start = self.stack.len().checked_sub(count).filter(|&start| start >= self.floor());
        Ok(self.stack.split_off(start.ok_or_else(|| Error::run("it takes from an empty stack"))?))
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or_else(|| Error::run("it looks for a mark that is not there"))?;
        Ok(self.stack.split_off(mark))
    }

    fn list(&mut self) -> Result<&mut Vec<Id>> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::List(items) => Ok(items),
            _ => Err(Error::run("it appends to something that is no list")),
        }
    }

    fn dict(&mut self) -> Result<&mut Vec<(Id, Id)>> {
        let top = self.top()?;
        match &mut self.values[top as usize] {
            Value::Dict(items) => Ok(items),
            _ => Err(Error::run("it sets an item of something that is no dictionary")),
        }
    }

    fn remember(&mut self, key: u32) -> Result<()> {
        let top = self.top()?;
        self.memo.insert(key, top);
        self.check_size()
    }

    fn recall(&mut self, key: u32) -> Result<()> {
        let id = self.memo.get(&key).copied().ok_or_else(|| Error::run("it recalls what it never kept"))?;
        self.push_id(id)
    }
}

/// A whole number from its bytes, lowest first, two's complement.
fn long(bytes: &[u8]) -> Value<'_> {
    if bytes.len() > 8 {
        return Value::Big(bytes);
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(all))
}

fn pairs(items: &[Id]) -> Result<Vec<(Id, Id)>> {
    match items.len() % 2 {
        0 => Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()),
        _ => Err(Error::run("a dictionary has a key without a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
        Pickle::read(bytes, |module, _| module == "collections")
    }

    #[test]
    fn values_of_protocol_2() {
        // pickle.dumps({"a": [1, -2, 70000, 2**40, None, True, 1.5], "b": (b"x", "é")}, 2), but for the bytes.
        let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffJp\x11\x01\x00\x8a\x06\x00\x00\x00\x00\x00\x01N\x88G?\xf8\x00\x00\x00\x00\x00\x00eX\x01\x00\x00\x00bC\x01xX\x02\x00\x00\x00\xc3\xa9\x86u.rest";
        let pickle = read(bytes).unwrap();
        assert_eq!(pickle.len, bytes.len() - 4);
        let list = pickle.parts(pickle.item(pickle.root(), "a").unwrap()).unwrap();
        assert_eq!(list[..4], [&Value::Int(1), &Value::Int(-2), &Value::Int(70000), &Value::Int(1 << 40)]);
        assert_eq!(list[4..], [&Value::None, &Value::Bool(true), &Value::Float(1.5)]);
        let tuple = pickle.parts(pickle.item(pickle.root(), "b").unwrap()).unwrap();
        assert_eq!(tuple, [&Value::Bytes(b"x"), &Value::Text("é")]);
        assert_eq!(pickle.item(pickle.root(), "c"), None);
    }

    #[test]
    fn calls_are_records_and_names_are_checked() {
        let pickle = read(b"ccollections\nCounter\nK\x07\x85R.").unwrap();
        assert_eq!(pickle.call(pickle.root()), Some(("collections.Counter".to_owned(), vec![&Value::Int(7)])));
        let refused = |bytes| read(bytes).unwrap_err().to_string();
        assert!(refused(b"cposix\nsystem\nX\x02\x00\x00\x00id\x85R.").contains("`posix.system`"));
        assert!(refused(b"\x8c\x02os\x8c\x06system\x93.").contains("`os.system`"));
        assert!(refused(b"c\x1b[31m\nx\n.").contains("\\u{1b}"));
    }

    #[test]
    fn ordered_dictionaries_are_dictionaries() {
        let pickle = read(b"ccollections\nOrderedDict\n)RX\x01\x00\x00\x00aK\x01s}b.").unwrap();
        assert_eq!(pickle.item(pickle.root(), "a"), Some(&Value::Int(1)));
        let pickle = read(b"ccollections\nOrderedDict\n]]X\x01\x00\x00\x00aaK\x02aa\x85R.").unwrap();
        assert_eq!(pickle.item(pickle.root(), "a"), Some(&Value::Int(2)));
    }

    #[test]
    fn damage_is_an_error() {
        for bytes in [
            &b""[..],
            b"K",
            b".",
            b"(",
            b"(.",
            b"0",
            b"2.",
            b"t.",
            b"K\x01(R.",
            b"K\x01K\x02a.",
            b"K\x01K\x02K\x03s.",
            b"h\x00.",
            b"X\xff\xff\xff\xffabc.",
            b"\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
            b"}(K\x01u.",
            b"cos\nsystem",
            b"X\x01\x00\x00\x00\xff.",
            b"K\x01)R.",
            b"I1\n.",
            b"\x82\x01.",
            b"K\x01(b.",
        ] {
            assert!(read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_list_may_hold_itself() {
        let pickle = read(b"]q\x00h\x00a.").unwrap();
        assert_eq!(pickle.parts(pickle.root()).unwrap(), [pickle.root()]);
    }

    #[test]
    fn values_without_end_are_refused() {
        let bytes = vec![b'N'; MOST_VALUES + 1];
        assert!(read(&bytes).unwrap_err().to_string().contains("more values"));
        let bytes = [&b"N"[..], &vec![b'2'; MOST_VALUES + 1]].concat();
        assert!(read(&bytes).unwrap_err().to_string().contains("more values"));
        let bytes = vec![b'('; MOST_VALUES + 1];
        assert!(read(&bytes).unwrap_err().to_string().contains("more values"));
    }

    /// Instructions in any order, so that random pickles get somewhere.
    fn instruction() -> impl Strategy<Value = Vec<u8>> {
        let plain = b"(012N])}tlaeusdRbQ.\x85\x86\x87\x88\x89\x8f\x90\x91\x93\x94\x81";
        prop_oneof![
            prop::sample::select(plain.to_vec()).prop_map(|op| vec![op]),
            (prop::sample::select(b"qhK".to_vec()), 0u8..4).prop_map(|(op, n)| vec![op, n]),
            Just(b"ccollections\nOrderedDict\n".to_vec()),
            Just(b"X\x01\x00\x00\x00a".to_vec()),
            prop::collection::vec(any::<u8>(), 1..8),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }

        #[test]
        fn no_program_makes_it_panic(program in prop::collection::vec(instruction(), 0..60)) {
            if let Ok(pickle) = read(&[program.concat(), b".".to_vec()].concat()) {
                prop_assert!(pickle.len <= program.concat().len() + 1);
                let _ = (pickle.item(pickle.root(), "a"), pickle.call(pickle.root()));
            }
        }
    }
}
