//! `#unroll` before a loop of a shader: its rounds are written one after the other, with the counter as a constant.
//! Arrays that only such counters index stay in registers on every driver, where some would keep them in memory for a
//! loop that they leave as it is (one with a barrier in it, say, or of many instructions).
//!
//! The loop is `for (var i = FIRST; i < END; i++) {`, or with `i += STEP`, where each of the three is a literal or a
//! top-level constant. Its body neither changes the counter nor leaves the loop.

use std::collections::HashMap;
use std::iter::successors;

use naga::{Expression, Literal, Module};

const DIRECTIVE: &str = "#unroll";

/// The text of these lines with every loop as it is.
pub(super) fn rolled(lines: &[String]) -> String {
    lines.iter().filter(|line| !is_directive(line)).map(|line| format!("{line}\n")).collect()
}

/// The text of these lines, every marked loop unrolled. `module` is what [`rolled`] gives, parsed.
///
/// # Panics
/// Where what follows a directive is no such loop.
pub(super) fn unroll(shader: &str, mut lines: Vec<String>, module: &Module) -> String {
    if lines.iter().any(|line| is_directive(line)) {
        let constants = constants(module);
        // From the last one: what is within a loop is unrolled before the loop itself.
        while let Some(at) = lines.iter().rposition(|line| is_directive(line)) {
            let header = lines.get(at + 1).map_or("", |line| line.trim());
            let counter = Counter::of(header, &constants)
                .unwrap_or_else(|| panic!("shader {shader}: no loop to unroll: '{header}'"));
            let end = end_of_block(&lines, at + 1)
                .unwrap_or_else(|| panic!("shader {shader}: '{header}' has no end"));
            let body = &lines[at + 2..end];
            let leaves = |line: &String| {
                let code = line.split("//").next().unwrap_or_default();
                ["break;", "continue;", "return"].iter().any(|word| code.contains(word))
            };
            assert!(!body.iter().any(leaves), "shader {shader}: '{header}' is left early");
            let rounds: Vec<String> = counter.values().flat_map(|value| counter.round(value, body)).collect();
            lines.splice(at..=end, rounds);
        }
    }
    lines.join("\n") + "\n"
}

fn is_directive(line: &str) -> bool {
    line.trim() == DIRECTIVE
}

/// Names and values of a module's constants of type u32.
fn constants(module: &Module) -> HashMap<String, u32> {
    let values =
        module.constants.iter().filter_map(|(_, constant)| match module.global_expressions[constant.init] {
            Expression::Literal(Literal::U32(value)) => Some((constant.name.clone()?, value)),
            _ => None,
        });
    values.collect()
}

struct Counter<'a> {
    name: &'a str,
    first: u32,
    end: u32,
    step: u32,
}

impl<'a> Counter<'a> {
    fn of(header: &'a str, constants: &HashMap<String, u32>) -> Option<Self> {
        let value = |text: &str| match text.strip_suffix('u').and_then(|digits| digits.parse().ok()) {
            Some(value) => Some(value),
            None => constants.get(text).copied(),
        };
        let inner = header.strip_prefix("for (var ")?.strip_suffix(") {")?;
        let [start, condition, next] = inner.split("; ").collect::<Vec<_>>().try_into().ok()?;
        let (name, first) = start.split_once(" = ")?;
        let end = condition.strip_prefix(name)?.strip_prefix(" < ")?;
        let step = match next.strip_prefix(name)? {
            "++" => 1,
            other => value(other.strip_prefix(" += ")?)?,
        };
        (step > 0).then_some(Self { name, first: value(first)?, end: value(end)?, step })
    }

    fn values(&self) -> impl Iterator<Item = u32> + use<> {
        let (end, step) = (self.end, self.step);
        successors(Some(self.first), move |value| value.checked_add(step))
            .take_while(move |value| *value < end)
    }

    fn round(&self, value: u32, body: &[String]) -> Vec<String> {
        let mut lines = vec![format!("{{ const {} = {value}u;", self.name)];
        lines.extend_from_slice(body);
        lines.push("}".to_owned());
        lines
    }
}

/// The line that closes the block which the line `first` opens.
fn end_of_block(lines: &[String], first: usize) -> Option<usize> {
    let mut depth = 0_i32;
    lines.iter().enumerate().skip(first).find_map(|(at, line)| {
        let code = line.split("//").next().unwrap_or_default();
        depth += code.matches('{').count() as i32 - code.matches('}').count() as i32;
        (depth == 0).then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unrolled(text: &str) -> String {
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let module = naga::front::wgsl::parse_str(&rolled(&lines)).expect("WGSL");
        unroll("sample", lines, &module)
    }

    #[test]
    fn rounds_of_nested_loops_follow_one_another_with_constant_counters() {
        let text = "const N: u32 = 2u;\nconst M = N * 3u;\nfn f() -> u32 {\n    var a: array<u32, M>;\n    #unroll\n    \
            for (var i = 0u; i < M; i += N) {\n        // a comment {\n        #unroll\n        for (var j = 0u; j < N; j++) {\n            \
            a[i + j] = i;\n        }\n    }\n    return a[0];\n}\n";
        let found = unrolled(text);
        for (constant, times) in
            [("const i = 0u;", 1), ("const i = 4u;", 1), ("const j = 1u;", 3), ("for", 0)]
        {
            assert_eq!(found.matches(constant).count(), times, "{constant}: {found}");
        }
        let module = naga::front::wgsl::parse_str(&found).expect("still WGSL");
        let (_, function) = module.functions.iter().next().expect("one");
        let by_variable = function.expressions.iter().any(|(_, e)| matches!(e, Expression::Access { .. }));
        assert!(!by_variable, "constant indices are known to be: {found}");
    }

    #[test]
    fn text_without_a_directive_is_left_alone() {
        assert_eq!(unrolled("fn f() {}\n"), "fn f() {}\n");
    }

    #[test]
    #[should_panic(expected = "no loop to unroll: 'for (var i = 0u; i < n; i++) {'")]
    fn a_loop_of_unknown_length_is_refused() {
        unrolled("fn f(n: u32) {\n    #unroll\n    for (var i = 0u; i < n; i++) {\n    }\n}\n");
    }

    #[test]
    #[should_panic(expected = "is left early")]
    fn a_loop_that_is_left_early_is_refused() {
        unrolled("fn f() {\n    #unroll\n    for (var i = 0u; i < 2u; i++) {\n        break;\n    }\n}\n");
    }
}
