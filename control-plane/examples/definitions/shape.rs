//! What a type reads, found out by having it read: its `Deserialize` asks for fields, and is given each of them.
//!
//! So nothing stands beside the types that could come apart from them: neither derived nor written twice.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
    value::{Error, StrDeserializer},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    Text,
    /// Not negative, up to this.
    Number(u32),
    List(Box<Self>),
    /// From any key to this.
    Map(Box<Self>),
    OneOf(&'static [&'static str]),
    Struct {
        name: &'static str,
        fields: Vec<(&'static str, Self)>,
    },
}

impl Shape {
    /// Errors: the type reads something else.
    pub(crate) fn of<T: DeserializeOwned>() -> Result<Self, Error> {
        let mut shape = None;
        T::deserialize(Tracer { shape: &mut shape })?;
        shape.ok_or_else(nothing)
    }
}

fn nothing() -> Error {
    serde::de::Error::custom("nothing is read")
}

/// Gives a type what it asks for, and writes down what that was.
struct Tracer<'a> {
    shape: &'a mut Option<Shape>,
}

impl Tracer<'_> {
    fn number<'de, V: Visitor<'de>>(self, max: u32, visitor: V) -> Result<V::Value, Error> {
        *self.shape = Some(Shape::Number(max));
        visitor.visit_u32(1)
    }
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::invalid_type(serde::de::Unexpected::Other("no schema"), &visitor))
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        *self.shape = Some(Shape::Text);
        // Whatever a text may be for, a key or a value of a label too, this can be one.
        visitor.visit_str("a")
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(u16::MAX.into(), visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(u32::MAX, visitor)
    }

    // All fields can be missing.
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut item = None;
        let list = visitor.visit_seq(One { item: &mut item, told: false })?;
        *self.shape = item.map(|item| Shape::List(Box::new(item)));
        Ok(list)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let mut value = None;
        let map = visitor.visit_map(One { item: &mut value, told: false })?;
        *self.shape = value.map(|value| Shape::Map(Box::new(value)));
        Ok(map)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut fields = Vec::new();
        let read = visitor.visit_map(Fields { left: names, fields: &mut fields })?;
        *self.shape = Some(Shape::Struct { name, fields });
        Ok(read)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.shape = Some(Shape::OneOf(variants));
        let any: StrDeserializer<'_, Error> =
            variants.first().ok_or_else(nothing)?.into_deserializer();
        visitor.visit_enum(any)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u64 u128 f32 f64 char bytes byte_buf unit unit_struct newtype_struct tuple
        tuple_struct identifier ignored_any
    }
}

/// A list or a map of one.
struct One<'a> {
    item: &'a mut Option<Shape>,
    told: bool,
}

impl One<'_> {
    fn value<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(Tracer { shape: self.item })
    }
}

impl<'de> SeqAccess<'de> for One<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if std::mem::replace(&mut self.told, true) { Ok(None) } else { self.value(seed).map(Some) }
    }
}

impl<'de> MapAccess<'de> for One<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        if std::mem::replace(&mut self.told, true) {
            return Ok(None);
        }
        // In JSON every key is a text, whatever it is read as.
        seed.deserialize(Tracer { shape: &mut None }).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.value(seed)
    }
}

/// Every field of a struct.
struct Fields<'a> {
    left: &'static [&'static str],
    fields: &'a mut Vec<(&'static str, Shape)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(name) = self.left.first() else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, left) = self.left.split_first().expect("a key of them was given before");
        self.left = left;
        let mut shape = None;
        let read = seed.deserialize(Tracer { shape: &mut shape })?;
        self.fields.push((name, shape.ok_or_else(nothing)?));
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
