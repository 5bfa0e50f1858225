//! Which kernels a device is fastest with: answers to the questions that operations ask while they are recorded.

use std::collections::BTreeMap;

/// Answers by question, both in words that the operations understand. A question without an answer is left to the
/// device's limits. Cheap to copy: answers are kept until the process ends, which knows few sets of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning(Option<&'static BTreeMap<String, String>>);

impl Tuning {
    /// These answers.
    pub fn new(answers: BTreeMap<String, String>) -> Self {
        if answers.is_empty() { Self(None) } else { Self(Some(Box::leak(Box::new(answers)))) }
    }

    /// The answer to a question.
    pub fn answer(&self, question: &str) -> Option<&'static str> {
        self.0?.get(question).map(String::as_str)
    }

    /// Every answer by its question.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.0.into_iter().flatten().map(|(question, answer)| (question.as_str(), answer.as_str()))
    }

    /// Answers known.
    pub fn len(&self) -> usize {
        self.0.map_or(0, BTreeMap::len)
    }

    /// No answer is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
