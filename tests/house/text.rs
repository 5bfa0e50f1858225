//! Just enough of Rust's grammar to read sources as text: what is code, which words, how long a function is.

/// The text with comments, strings and character literals blanked out; line breaks stay where they are.
pub fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = comment_length(rest).or_else(|| literal_length(rest, &out));
        if let Some(length) = skipped {
            out.extend(rest[..length].chars().map(|c| if c == '\n' { c } else { ' ' }));
            rest = &rest[length..];
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    out
}

/// The length in bytes of the comment that `text` starts with.
fn comment_length(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if !text.starts_with("/*") {
        return None;
    }
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        let here = &text.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
        } else {
            at += 1;
        }
        if depth == 0 {
            return Some(at);
        }
    }
    Some(text.len())
}

/// The length in bytes of the string or character literal that `text` starts with; `before` is the code so far.
fn literal_length(text: &str, before: &str) -> Option<usize> {
    match text.chars().next()? {
        '"' => Some(quoted_length(text, '"')),
        '\'' => is_character(text).then(|| quoted_length(text, '\'')),
        'r' if !before.ends_with(is_word) || ends_with_prefix(before) => raw_length(text),
        _ => None,
    }
}

/// The `b` or `c` of `br"..."` and `cr"..."`, which is no part of a longer word.
fn ends_with_prefix(before: &str) -> bool {
    let mut back = before.chars().rev();
    matches!(back.next(), Some('b' | 'c')) && !back.next().is_some_and(is_word)
}

/// Tells `'a'` and `'\n'` from the lifetime `'a`.
fn is_character(text: &str) -> bool {
    let mut chars = text.chars().skip(1);
    match chars.next() {
        Some('\\') => true,
        Some(_) => chars.next() == Some('\''),
        None => false,
    }
}

/// The length of a literal with escapes, both quotes included.
fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"..."` or `r#"..."#`; `None` for a word that merely starts with r, and for `r#name`.
fn raw_length(text: &str) -> Option<usize> {
    let hashes = text[1..].chars().take_while(|c| *c == '#').count();
    let body = 1 + hashes + 1;
    if text.as_bytes().get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    Some(text[body..].find(&end).map_or(text.len(), |at| body + at + end.len()))
}

/// Whether a character can be part of a name.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The word that `text` starts with, after white space; empty where there is none.
pub fn first_word(text: &str) -> &str {
    let text = text.trim_start();
    &text[..text.find(|c| !is_word(c)).unwrap_or(text.len())]
}

/// Where `word` stands alone in `code`, as byte offsets.
pub fn word_places<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let after = &code[at + word.len()..];
        !code[..*at].ends_with(is_word) && !after.starts_with(is_word)
    })
}

/// The 1-based line of a byte offset.
pub fn line_of(code: &str, at: usize) -> usize {
    code[..at].matches('\n').count() + 1
}

/// (name, first line, number of lines) of every function with a body.
pub fn functions(text: &str) -> Vec<(String, usize, usize)> {
    let code = code_only(text);
    let starts = word_places(&code, "fn").filter(|at| !first_word(&code[at + 2..]).is_empty());
    starts
        .filter_map(|at| {
            let open = at + body_start(&code[at..])?;
            let close = open + block_length(&code[open..]);
            let lines = line_of(&code, close) - line_of(&code, at) + 1;
            Some((first_word(&code[at + 2..]).to_string(), line_of(&code, at), lines))
        })
        .collect()
}

/// The offset of the brace that opens a function's body; `None` for a declaration that ends in a semicolon.
/// A semicolon inside brackets belongs to an array type.
fn body_start(code: &str) -> Option<usize> {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            '{' if depth == 0 => return Some(at),
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// The offset of the brace that closes the block which `code` starts with.
fn block_length(code: &str) -> usize {
    let mut depth = 0;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    code.len()
}
