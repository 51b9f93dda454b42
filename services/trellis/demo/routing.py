"""Routing a customer's message to one of eight desks."""

from random import Random

from trellis.demo.tasks import Example, Task

_PRODUCTS = ("kettle", "backpack", "headphones", "desk lamp", "jacket", "running shoes", "camera", "blender", "watch")
_DAYS = ("yesterday", "last week", "on Monday", "on Friday", "two days ago", "this morning", "a week ago")
_OPENINGS = ("", "", "Hi, ", "Hello, ", "Good morning, ", "Hey there, ", "Excuse me, ", "Hi team, ")
_ENDINGS = ("", "", " Thanks.", " Thank you!", " Please help.", " Can you help me?", " What should I do?")

_MESSAGES = {
    "billing": (
        "I was charged twice for the {product}.",
        "the invoice for my {product} shows the wrong amount.",
        "why is there an extra fee on my bill from {day}?",
        "my card was billed {day} but the price is not what you advertised.",
        "I need a copy of the invoice for the {product} I bought {day}.",
    ),
    "refund": (
        "I want my money back for the {product}.",
        "I returned the {product} {day} and still have no refund.",
        "when will I get the refund for my {product}?",
        "please refund the {product}, I sent it back {day}.",
        "the refund you promised me {day} has not arrived.",
    ),
    "delivery": (
        "where is my {product}? I ordered it {day}.",
        "my parcel with the {product} has not arrived yet.",
        "the tracking page for my {product} has not changed since {day}.",
        "when will the {product} be delivered?",
        "the courier was here {day} but left no {product}.",
    ),
    "login": (
        "I can't log in to my account since {day}.",
        "I forgot my password and the reset mail never comes.",
        "your site says my account is locked, I tried {day}.",
        "the code to sign in does not work on my phone.",
        "my password is refused although I changed it {day}.",
    ),
    "cancel_order": (
        "please cancel my order for the {product}.",
        "I ordered a {product} {day} by mistake, stop the order.",
        "I changed my mind, cancel the {product} before it ships.",
        "how can I cancel the order that I placed {day}?",
        "do not send the {product}, I no longer need it, cancel it.",
    ),
    "change_address": (
        "I moved {day}, please change my delivery address.",
        "can you send the {product} to another address?",
        "the address on my order for the {product} is wrong.",
        "please update my address before the {product} ships.",
        "I typed the wrong street when I ordered {day}.",
    ),
    "defect": (
        "the {product} stopped working {day}.",
        "my {product} arrived broken.",
        "the {product} makes a strange noise since {day}.",
        "a part of the {product} is missing from the box.",
        "the {product} does not turn on any more.",
    ),
    "praise": (
        "I love my new {product}!",
        "the {product} is great, well done.",
        "your colleague who helped me {day} was wonderful.",
        "best {product} that I have ever had.",
        "I just want to say that the {product} is fantastic.",
    ),
}

INTENTS = tuple(_MESSAGES)


def _make(rng: Random) -> Example:
    intent = rng.choice(INTENTS)
    text = rng.choice(_MESSAGES[intent]).format(product=rng.choice(_PRODUCTS), day=rng.choice(_DAYS))
    opening = rng.choice(_OPENINGS)
    message = opening + (text if opening else text[0].upper() + text[1:]) + rng.choice(_ENDINGS)
    return Example(message, intent)


ROUTING = Task("acme", "support-routing", "route support messages to one of 8 desks", _make)
