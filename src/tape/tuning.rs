//! Which kernels a device is fastest with: answers to the questions that operations ask while they are recorded.

use std::collections::BTreeMap;

/// Answers by question, both in words that the operations understand. A question without an answer is left to the
/// device's limits. Cheap to copy: answers are kept until the process ends, which knows few sets of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tuning(Option<&'static Known>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    answers: BTreeMap<String, String>,
    banned: Vec<String>,
}

impl Tuning {
    /// These answers, and what must never be taken on the device, whatever else there is.
    pub fn new(answers: BTreeMap<String, String>, banned: Vec<String>) -> Self {
        let known = Known { answers, banned };
        if known == Known::default() { Self(None) } else { Self(Some(Box::leak(Box::new(known)))) }
    }

    /// The answer to a question.
    pub fn answer(&self, question: &str) -> Option<&'static str> {
        self.0?.answers.get(question).map(String::as_str)
    }

    /// What must never be taken.
    pub fn banned(&self) -> &'static [String] {
        self.0.map_or(&[], |known| &known.banned)
    }

    /// Every answer by its question.
    pub fn answers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let answers = self.0.into_iter().flat_map(|known| &known.answers);
        answers.map(|(question, answer)| (question.as_str(), answer.as_str()))
    }

    /// Answers known.
    pub fn len(&self) -> usize {
        self.0.map_or(0, |known| known.answers.len())
    }

    /// No answer is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
