// What the Node peers of `acknowledge` accept: the limits of app/domain/records.py.
//
// EMAIL_PATTERN (this project's rule for addresses) comes from the environment.
import { z } from 'zod';

export const registration = z.object({
  id: z.string().min(1).max(128).regex(/^[^\x00-\x1f\x7f-\x9f]*$/),
  name: z.string().min(1).max(256).regex(/^[^\x00-\x1f\x7f-\x9f]*$/),
  email: z.string().max(254).regex(new RegExp(process.env.EMAIL_PATTERN, 'u')),
});
